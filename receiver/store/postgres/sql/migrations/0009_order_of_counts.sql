-- All transactions that change the counts of costs commit one after the other, also those that delete a task or a kept
-- cost, or change what a cost is summed by. They change rows that all nodes change, and in this way never wait for each
-- other in a circle.
CREATE TRIGGER tasks_order BEFORE DELETE OR UPDATE OF endpoint, label, batch, tags ON tasks
FOR EACH STATEMENT
EXECUTE FUNCTION lock_event_order();

CREATE TRIGGER deleted_costs_order BEFORE INSERT OR UPDATE OR DELETE ON deleted_costs
FOR EACH STATEMENT
EXECUTE FUNCTION lock_event_order();
