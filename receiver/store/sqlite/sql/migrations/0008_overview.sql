-- Dead deliveries are few among many, and an operator looks for them first.
CREATE INDEX deliveries_dead_newest ON deliveries (id) WHERE status = 'dead';
