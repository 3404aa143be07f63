-- Alerts as work: one row from the first report of an alert until it recovers. `times` counts the reports.
CREATE TABLE alerts (
    id TEXT PRIMARY KEY NOT NULL,
    topic TEXT NOT NULL,
    subject TEXT NOT NULL,
    type TEXT NOT NULL,
    message TEXT NOT NULL,
    remedy TEXT NOT NULL,
    cause TEXT NOT NULL,
    level INTEGER NOT NULL CHECK (level >= 0),
    event_id TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    times INTEGER NOT NULL CHECK (times >= 1),
    acknowledged_at INTEGER,
    acknowledged_by TEXT,
    note TEXT NOT NULL,
    closed_at INTEGER,
    closed_by TEXT CHECK (closed_by IN ('recovery', 'acknowledgement')),
    CHECK ((acknowledged_at IS NULL) = (acknowledged_by IS NULL)),
    CHECK ((closed_at IS NULL) = (closed_by IS NULL))
) STRICT;

CREATE UNIQUE INDEX alerts_open ON alerts (topic, subject) WHERE closed_at IS NULL;
CREATE INDEX alerts_closed ON alerts (closed_at) WHERE closed_at IS NOT NULL;

-- Dead deliveries are few, and an open alert about them closes once each was delivered again.
CREATE INDEX deliveries_dead ON deliveries (route, finished_at) WHERE status = 'dead';

-- The daily reports that were sent, by the local day, so that a restart repeats none.
CREATE TABLE reports (
    day TEXT PRIMARY KEY NOT NULL,
    event_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    callbacks_missed REAL NOT NULL CHECK (callbacks_missed >= 0)
) STRICT;
