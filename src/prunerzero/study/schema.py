"""The tables of a study, and what must hold in them."""

from __future__ import annotations

# "PrZ0": tells our files from those of other applications (`file study.db` shows it too).
APPLICATION_ID = 0x50725A30

# MIGRATIONS[v] takes a study from schema v to v + 1; a new study runs them all. A released entry
# is never edited: a change of the schema is one more entry.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE settings (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL CHECK (json_valid(value))
    ) STRICT;

    CREATE TABLE candidate (
        id INTEGER PRIMARY KEY,
        step INTEGER NOT NULL,
        key TEXT NOT NULL,
        status TEXT NOT NULL CHECK (status IN ('pending', 'evaluated', 'rejected', 'failed')),
        recipe TEXT NOT NULL CHECK (json_valid(recipe)),
        expression TEXT NOT NULL,
        size INTEGER NOT NULL,
        origin TEXT NOT NULL,
        parents TEXT NOT NULL CHECK (json_valid(parents)),
        fitness REAL,
        fingerprint TEXT,
        reason TEXT,
        seconds REAL NOT NULL,
        skipped INTEGER NOT NULL,
        created TEXT NOT NULL,
        CHECK ((status = 'evaluated') = (fitness IS NOT NULL)),
        CHECK ((status IN ('rejected', 'failed')) = (reason IS NOT NULL))
    ) STRICT;
    -- The promise that nothing is measured twice, kept by the database itself.
    CREATE UNIQUE INDEX candidate_key ON candidate (key) WHERE status = 'evaluated';
    CREATE INDEX candidate_fitness ON candidate (status, fitness);

    CREATE TABLE duplicate (
        key TEXT PRIMARY KEY,
        candidate_id INTEGER NOT NULL REFERENCES candidate (id),
        step INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE measurement (
        id INTEGER PRIMARY KEY,
        candidate_id INTEGER REFERENCES candidate (id),
        name TEXT,
        purpose TEXT NOT NULL CHECK (purpose IN ('fitness', 'validation', 'heldout')),
        rung INTEGER NOT NULL,
        windows TEXT NOT NULL,
        tokens INTEGER NOT NULL,
        loss REAL,
        kl REAL,
        data TEXT NOT NULL CHECK (json_valid(data)),
        seconds REAL NOT NULL,
        created TEXT NOT NULL,
        CHECK (candidate_id IS NOT NULL OR name IS NOT NULL)
    ) STRICT;
    CREATE INDEX measurement_candidate ON measurement (candidate_id);

    CREATE TABLE event (
        id INTEGER PRIMARY KEY,
        created TEXT NOT NULL,
        kind TEXT NOT NULL,
        data TEXT NOT NULL CHECK (json_valid(data))
    ) STRICT;
    """,
    # 2: candidates that workers have, and a checksum in every row.
    """
    CREATE TABLE lease (
        candidate_id INTEGER PRIMARY KEY REFERENCES candidate (id),
        worker TEXT NOT NULL,
        expires REAL NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX candidate_pending ON candidate (key) WHERE status = 'pending';

    ALTER TABLE settings ADD COLUMN digest TEXT;
    ALTER TABLE candidate ADD COLUMN digest TEXT;
    ALTER TABLE duplicate ADD COLUMN digest TEXT;
    ALTER TABLE measurement ADD COLUMN digest TEXT;
    ALTER TABLE event ADD COLUMN digest TEXT;
    """,
)

SCHEMA_VERSION = len(MIGRATIONS)

# The tables whose rows carry a checksum (`prunerzero.study.seals`).
SEALED = ("settings", "candidate", "duplicate", "measurement", "event")

# Each query returns the ids or keys that break the rule. What CHECK and REFERENCES can say is
# not repeated here: SQLite's own integrity and foreign key checks cover it.
INVARIANTS: tuple[tuple[str, str], ...] = (
    (
        "evaluated without a fitness measurement: candidate",
        """SELECT id FROM candidate WHERE status = 'evaluated' AND id NOT IN (
            SELECT candidate_id FROM measurement
            WHERE purpose = 'fitness' AND candidate_id IS NOT NULL)""",
    ),
    (
        "descends from a candidate that did not precede it: candidate",
        """SELECT DISTINCT child.id FROM candidate AS child, json_each(child.parents) AS parent
        WHERE parent.value >= child.id OR parent.value NOT IN (SELECT id FROM candidate)""",
    ),
    (
        "known as a duplicate and yet evaluated: key",
        """SELECT key FROM duplicate
        WHERE key IN (SELECT key FROM candidate WHERE status = 'evaluated')""",
    ),
    (
        "duplicate of a candidate that was not evaluated: key",
        """SELECT duplicate.key FROM duplicate JOIN candidate ON candidate.id = candidate_id
        WHERE status <> 'evaluated'""",
    ),
    (
        "leased and yet settled: candidate",
        """SELECT candidate_id FROM lease JOIN candidate ON candidate.id = candidate_id
        WHERE status <> 'pending'""",
    ),
    *(
        # Rows are only ever added, so a gap before the last one is a row that was removed.
        (
            f"rows are missing before {table}",
            f"""SELECT id FROM {table} AS this WHERE id > 1
            AND NOT EXISTS (SELECT 1 FROM {table} WHERE id = this.id - 1)""",
        )
        for table in ("candidate", "measurement", "event")
    ),
)
