-- Alerts as work: one row from the first report of an alert until it recovers. `times` counts the reports.
CREATE TABLE alerts (
    id TEXT COLLATE "C" PRIMARY KEY,
    topic TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    type TEXT COLLATE "C" NOT NULL,
    message TEXT NOT NULL,
    remedy TEXT NOT NULL,
    cause TEXT NOT NULL,
    level INTEGER NOT NULL CHECK (level >= 0),
    event_id TEXT COLLATE "C" NOT NULL,
    opened_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    times INTEGER NOT NULL CHECK (times >= 1),
    acknowledged_at BIGINT,
    acknowledged_by TEXT COLLATE "C",
    note TEXT NOT NULL,
    closed_at BIGINT,
    closed_by TEXT COLLATE "C" CHECK (closed_by IN ('recovery', 'acknowledgement')),
    CHECK ((acknowledged_at IS NULL) = (acknowledged_by IS NULL)),
    CHECK ((closed_at IS NULL) = (closed_by IS NULL))
);

CREATE UNIQUE INDEX alerts_open ON alerts (topic, subject) WHERE closed_at IS NULL;
CREATE INDEX alerts_closed ON alerts (closed_at) WHERE closed_at IS NOT NULL;

-- The daily reports that were sent, by the local day, so that a restart repeats none.
CREATE TABLE reports (
    day TEXT COLLATE "C" PRIMARY KEY,
    event_id TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    callbacks_missed DOUBLE PRECISION NOT NULL CHECK (callbacks_missed >= 0)
);

-- How long past tasks took, by kind: `samples` is a JSON list of seconds, the newest last.
CREATE TABLE durations (
    kind TEXT COLLATE "C" PRIMARY KEY,
    samples TEXT NOT NULL CHECK (samples IS JSON),
    updated_at BIGINT NOT NULL
);

-- Until when the daily check compared Kling's ledgers with our record of costs. One row.
CREATE TABLE bill_checks (
    "only" INTEGER PRIMARY KEY CHECK ("only" = 1),
    checked_until BIGINT NOT NULL
);
