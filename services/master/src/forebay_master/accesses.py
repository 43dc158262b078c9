"""The table of last accesses: plain functions over a connection. See `access_times` for what it means."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from forebay_master.listings import DirectoryName

SCHEMA = """
CREATE TABLE IF NOT EXISTS accesses (
    mount_id TEXT NOT NULL, generation INTEGER NOT NULL, directory TEXT NOT NULL, name TEXT NOT NULL,
    accessed_s REAL NOT NULL, PRIMARY KEY (mount_id, generation, directory, name)
) WITHOUT ROWID
"""

AccessRow = tuple[str, int, str, str, float]
"""A directory's three parts, a name in it, Unix time."""

_OF = "SELECT name, accessed_s FROM accesses WHERE mount_id = ? AND generation = ? AND directory = ?"
_PUT = """
INSERT INTO accesses VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET accessed_s = max(accessed_s, excluded.accessed_s)
"""


def count(db: sqlite3.Connection) -> int:
    """Files that have one."""
    return int(db.execute("SELECT count(*) FROM accesses").fetchone()[0])


def put(db: sqlite3.Connection, rows: Sequence[AccessRow]) -> None:
    """Keeps the later one of each file."""
    db.executemany(_PUT, rows)


def one(db: sqlite3.Connection, name: DirectoryName, file: str) -> float | None:
    """Of one file."""
    found = db.execute(f"{_OF} AND name = ?", (*name, file)).fetchone()
    return float(found[1]) if found is not None else None


def among(db: sqlite3.Connection, name: DirectoryName, after: str, through: str) -> dict[str, float]:
    """Of a directory's files behind ``after`` up to ``through``."""
    return dict(db.execute(f"{_OF} AND name > ? AND name <= ?", (*name, after, through)))


def shrink(db: sqlite3.Connection, rows: int) -> None:
    """Keeps the ``rows`` latest ones."""
    least = db.execute("SELECT accessed_s FROM accesses ORDER BY accessed_s DESC LIMIT 1 OFFSET ?", (rows,)).fetchone()
    if least is not None:
        db.execute("DELETE FROM accesses WHERE accessed_s <= ?", least)


def drop_mount(db: sqlite3.Connection, mount_id: str) -> None:
    """The mount is gone, or of another generation."""
    db.execute("DELETE FROM accesses WHERE mount_id = ?", (mount_id,))
