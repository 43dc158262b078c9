"""Listings in SQLite: each sync of a directory fills a listing of its own and then takes the current one's place.

So readers see a whole listing or the one before it, never half of each; a sync that fails leaves the old one as it was
and is never remembered as an empty directory. Plain functions over a connection: they run on the database's threads.
States: ``filling`` (a sync writes it), ``current`` (one per directory), ``dead`` (waits to be swept).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from forebay.contracts import Mount
from forebay.errors import NotFound
from forebay_master.entries import DIRECTORY, Row

SWEEP_ROWS = 2000
"""Rows thrown away in one transaction (~10 ms), so that other writes are not held up."""

_PUT = f"""
INSERT INTO inodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (listing, name) DO UPDATE SET
    kind = excluded.kind, size = excluded.size, mtime_ns = excluded.mtime_ns, mode = excluded.mode,
    inode = excluded.inode, fingerprint = excluded.fingerprint, version = excluded.version
    WHERE inodes.kind != {DIRECTORY}
"""
_COLUMNS = "name, kind, size, mtime_ns, mode, inode, fingerprint, version"


class DirectoryName(NamedTuple):
    """A directory of one mount: ``directory`` is a key below it. A remounted source begins anew."""

    mount_id: str
    generation: int
    directory: str

    @staticmethod
    def of(mount: Mount, directory: str) -> DirectoryName:
        """The directory ``directory`` of ``mount``."""
        return DirectoryName(mount.mount_id, mount.generation, directory)


@dataclass(frozen=True)
class Known:
    """What a current listing says: rows in byte order of names, or the one that was asked for, or none."""

    synced_at_s: float
    rows: tuple[Row, ...]


def begin(db: sqlite3.Connection, name: DirectoryName, synced_at_s: float) -> int:
    """A new listing to be filled; its number."""
    made = db.execute(
        "INSERT INTO listings (mount_id, generation, directory, state, synced_at_s) VALUES (?, ?, ?, 'filling', ?)",
        (*name, synced_at_s),
    )
    assert made.lastrowid is not None
    return made.lastrowid


def add(db: sqlite3.Connection, listing: int, rows: Sequence[Row]) -> None:
    """Puts rows into a listing that is being filled. Of a file and a directory of one name the directory stays."""
    db.executemany(_PUT, ((listing, *row) for row in rows))


def seal(db: sqlite3.Connection, name: DirectoryName, listing: int) -> int:
    """Makes a filled listing the current one; returns how many names it has.

    Raises:
        NotFound: the mount was removed, or its generation ended, while the listing was filled.
    """
    generation = db.execute("SELECT generation FROM generations WHERE mount_id = ?", name[:1]).fetchone()
    is_mounted = db.execute("SELECT 1 FROM mounts WHERE mount_id = ?", name[:1]).fetchone()
    if is_mounted is None or generation != (name.generation,):
        raise NotFound("the mount was removed while it was listed", mount_id=name.mount_id)
    count: int = db.execute("SELECT count(*) FROM inodes WHERE listing = ?", (listing,)).fetchone()[0]
    bury(db, name)
    db.execute("UPDATE listings SET state = 'current', entry_count = ? WHERE listing = ?", (count, listing))
    return count


def bury(db: sqlite3.Connection, name: DirectoryName) -> None:
    """The directory has no current listing any more."""
    where = "mount_id = ? AND generation = ? AND directory = ? AND state = 'current'"
    db.execute(f"UPDATE listings SET state = 'dead' WHERE {where}", name)


def abandon(db: sqlite3.Connection, listing: int) -> None:
    """A listing that will not be sealed."""
    db.execute("UPDATE listings SET state = 'dead' WHERE listing = ?", (listing,))


def bury_mount(db: sqlite3.Connection, mount_id: str) -> None:
    """Nothing of this mount is current any more; what is being filled will not be sealed."""
    db.execute("UPDATE listings SET state = 'dead' WHERE mount_id = ? AND state = 'current'", (mount_id,))


def bury_unfinished(db: sqlite3.Connection) -> None:
    """At start: what a process that died was filling."""
    db.execute("UPDATE listings SET state = 'dead' WHERE state = 'filling'")


def sweep(db: sqlite3.Connection) -> bool:
    """Throws away some rows of dead listings; whether there may be more."""
    dead = db.execute("SELECT listing FROM listings WHERE state = 'dead' LIMIT 1").fetchone()
    if dead is None:
        return False
    names = "SELECT name FROM inodes WHERE listing = ? LIMIT ?"
    gone = db.execute(
        f"DELETE FROM inodes WHERE listing = ? AND name IN ({names})", (*dead, *dead, SWEEP_ROWS)
    ).rowcount
    if gone < SWEEP_ROWS:
        db.execute("DELETE FROM listings WHERE listing = ?", dead)
    return True


def page(db: sqlite3.Connection, name: DirectoryName, after: str, limit: int) -> Known | None:
    """At most ``limit`` rows behind the name ``after`` ("" is the beginning); ``None`` without a current listing."""
    found = _current(db, name)
    if found is None:
        return None
    listing, synced_at_s = found
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM inodes WHERE listing = ? AND name > ? ORDER BY name LIMIT ?", (listing, after, limit)
    )
    return Known(synced_at_s, tuple(map(Row._make, rows)))


def find(db: sqlite3.Connection, name: DirectoryName, entry: str) -> Known | None:
    """The row ``entry`` of the directory, or no row if it is known not to be there; ``None`` without a listing."""
    found = _current(db, name)
    if found is None:
        return None
    listing, synced_at_s = found
    rows = db.execute(f"SELECT {_COLUMNS} FROM inodes WHERE listing = ? AND name = ?", (listing, entry))
    return Known(synced_at_s, tuple(map(Row._make, rows)))


def _current(db: sqlite3.Connection, name: DirectoryName) -> tuple[int, float] | None:
    where = "mount_id = ? AND generation = ? AND directory = ? AND state = 'current'"
    found: tuple[int, float] | None = db.execute(
        f"SELECT listing, synced_at_s FROM listings WHERE {where}", name
    ).fetchone()
    return found


@dataclass(frozen=True)
class ListingCounts:
    """``directories`` that have a current listing, and the ``names`` in those listings."""

    directories: int
    names: int


def counts(db: sqlite3.Connection) -> dict[str, ListingCounts]:
    """By mount id."""
    found = db.execute(
        "SELECT mount_id, count(*), sum(entry_count) FROM listings WHERE state = 'current' GROUP BY mount_id"
    )
    return {mount_id: ListingCounts(directories, names) for mount_id, directories, names in found}
