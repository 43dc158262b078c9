"""Why the last sync of a directory failed, and when it is worth another: stored until one succeeds.

The first failure is tried again by the next request; after the second in a row requests get the stored answer until
``retry_at_s``. A call for a sync (``forebay sync``) never waits for that time. Plain functions over a connection.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from forebay.errors import WIRE_ERRORS, ForebayError, UfsError
from forebay_master.listings import DirectoryName

RETRY_MAX_S = 10.0
KEPT_MAX = 1000
"""Directories whose last failure is kept; the oldest are forgotten."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS sync_errors (
    mount_id TEXT NOT NULL, generation INTEGER NOT NULL, directory TEXT NOT NULL, code TEXT NOT NULL,
    message TEXT NOT NULL, failed_at_s REAL NOT NULL, retry_at_s REAL NOT NULL, attempts INTEGER NOT NULL,
    PRIMARY KEY (mount_id, generation, directory)
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class SyncFailure:
    """``sync_error`` of a directory: the last of ``attempts`` failures in a row."""

    name: DirectoryName
    code: str
    message: str
    failed_at_s: float
    retry_at_s: float
    attempts: int = 1

    def error(self) -> ForebayError:
        """What a request gets that needs this directory."""
        return explained(WIRE_ERRORS.get(self.code, UfsError)(self.message), self)


def following(before: SyncFailure | None, name: DirectoryName, error: ForebayError, now_s: float) -> SyncFailure:
    """The failure after ``before``. Pure."""
    attempts = 1 if before is None else before.attempts + 1
    pause_s = 0.0 if attempts == 1 else min(RETRY_MAX_S, 2.0 ** min(attempts - 2, 10))
    return SyncFailure(name, error.code, error.message, now_s, now_s + pause_s, attempts)


def explained(error: ForebayError, failure: SyncFailure) -> ForebayError:
    """The error with when it happened and when the under store is asked again. Changes ``error``."""
    said = {"failed_at_s": failure.failed_at_s, "retry_at_s": failure.retry_at_s, "attempts": failure.attempts}
    error.details |= {"sync_error": failure.code, **said}
    return error


def load(db: sqlite3.Connection) -> list[SyncFailure]:
    """All that are kept, the newest last."""
    columns = "mount_id, generation, directory, code, message, failed_at_s, retry_at_s, attempts"
    rows = db.execute(f"SELECT {columns} FROM sync_errors ORDER BY failed_at_s").fetchall()
    return [SyncFailure(DirectoryName(*row[:3]), *row[3:]) for row in rows]


def put(db: sqlite3.Connection, failure: SyncFailure) -> None:
    """Keeps it in place of the one before."""
    f = failure
    row = (*f.name, f.code, f.message, f.failed_at_s, f.retry_at_s, f.attempts)
    db.execute("INSERT OR REPLACE INTO sync_errors VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def drop(db: sqlite3.Connection, name: DirectoryName) -> None:
    """The directory was listed, or is gone."""
    db.execute("DELETE FROM sync_errors WHERE mount_id = ? AND generation = ? AND directory = ?", name)


def drop_mount(db: sqlite3.Connection, mount_id: str) -> None:
    """The mount is gone, or of another generation."""
    db.execute("DELETE FROM sync_errors WHERE mount_id = ?", (mount_id,))
