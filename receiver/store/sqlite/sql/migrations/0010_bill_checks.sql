-- Until when the daily check compared Kling's ledgers with our record of costs. One row.
CREATE TABLE bill_checks (
    only INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
    checked_until INTEGER NOT NULL
) STRICT;
