-- The slots that running tasks use, by slot key and fair share: those of tasks that are submitting, and of the others.
-- A submit reads these sums, so that it does not count all running tasks. No push must fail, so nothing is checked here.
CREATE TABLE running_slots (
    slot_key TEXT NOT NULL,
    fair_share TEXT NOT NULL,
    submitting INTEGER NOT NULL,
    confirmed INTEGER NOT NULL,
    PRIMARY KEY (slot_key, fair_share)
) STRICT, WITHOUT ROWID;

INSERT INTO running_slots (slot_key, fair_share, submitting, confirmed)
SELECT
    slot_key,
    fair_share,
    SUM(CASE state WHEN 'submitting' THEN weight ELSE 0 END),
    SUM(CASE state WHEN 'submitting' THEN 0 ELSE weight END)
FROM tasks
WHERE state IN ('submitting', 'submitted', 'processing')
GROUP BY slot_key, fair_share;

-- The sums replace it.
DROP INDEX tasks_running;

CREATE TRIGGER tasks_start_running AFTER INSERT ON tasks
WHEN NEW.state IN ('submitting', 'submitted', 'processing')
BEGIN
    INSERT INTO running_slots (slot_key, fair_share, submitting, confirmed)
    VALUES (
        NEW.slot_key,
        NEW.fair_share,
        CASE NEW.state WHEN 'submitting' THEN NEW.weight ELSE 0 END,
        CASE NEW.state WHEN 'submitting' THEN 0 ELSE NEW.weight END
    )
    ON CONFLICT (slot_key, fair_share) DO UPDATE
    SET submitting = submitting + excluded.submitting, confirmed = confirmed + excluded.confirmed;
END;

CREATE TRIGGER tasks_change_running AFTER UPDATE OF state, slot_key, fair_share, weight ON tasks
WHEN (OLD.state = 'submitting', OLD.state IN ('submitted', 'processing'), OLD.slot_key, OLD.fair_share, OLD.weight)
  <> (NEW.state = 'submitting', NEW.state IN ('submitted', 'processing'), NEW.slot_key, NEW.fair_share, NEW.weight)
BEGIN
    UPDATE running_slots
    SET submitting = submitting - CASE OLD.state WHEN 'submitting' THEN OLD.weight ELSE 0 END,
        confirmed = confirmed - CASE OLD.state WHEN 'submitting' THEN 0 ELSE OLD.weight END
    WHERE OLD.state IN ('submitting', 'submitted', 'processing')
      AND slot_key = OLD.slot_key
      AND fair_share = OLD.fair_share;
    INSERT INTO running_slots (slot_key, fair_share, submitting, confirmed)
    SELECT
        NEW.slot_key,
        NEW.fair_share,
        CASE NEW.state WHEN 'submitting' THEN NEW.weight ELSE 0 END,
        CASE NEW.state WHEN 'submitting' THEN 0 ELSE NEW.weight END
    WHERE NEW.state IN ('submitting', 'submitted', 'processing')
    ON CONFLICT (slot_key, fair_share) DO UPDATE
    SET submitting = submitting + excluded.submitting, confirmed = confirmed + excluded.confirmed;
    DELETE FROM running_slots
    WHERE slot_key = OLD.slot_key
      AND fair_share = OLD.fair_share
      AND submitting = 0
      AND confirmed = 0;
END;

CREATE TRIGGER tasks_stop_running AFTER DELETE ON tasks
WHEN OLD.state IN ('submitting', 'submitted', 'processing')
BEGIN
    UPDATE running_slots
    SET submitting = submitting - CASE OLD.state WHEN 'submitting' THEN OLD.weight ELSE 0 END,
        confirmed = confirmed - CASE OLD.state WHEN 'submitting' THEN 0 ELSE OLD.weight END
    WHERE slot_key = OLD.slot_key
      AND fair_share = OLD.fair_share;
    DELETE FROM running_slots
    WHERE slot_key = OLD.slot_key
      AND fair_share = OLD.fair_share
      AND submitting = 0
      AND confirmed = 0;
END;
