"""Listings in SQLite: each sync of a directory fills a listing of its own and then takes the current one's place.

So readers see a whole listing or the one before it, never half of each; a sync that fails leaves the old one as it was
and is never remembered as an empty directory. Plain functions over a connection: they run on the database's threads.
States: ``filling`` (a sync writes it), ``current`` (one per directory), ``dead`` (waits to be swept).
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from forebay.contracts import ChangeKind, Mount
from forebay.contracts.leaves import Leaf
from forebay.errors import NotFound
from forebay_master import leaves
from forebay_master.entries import Row
from forebay_master.leaves import Packed

DIFFERENCES_MAX = 1000
"""Names by which two listings of a directory may differ before the directory as a whole counts as changed."""

SWEEP_LEAVES = 200
"""Leaves thrown away in one transaction (~10 ms), so that other writes are not held up."""


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
    leaves.put(db, listing, rows)


def put_whole(db: sqlite3.Connection, name: DirectoryName, synced_at_s: float, leaf: Leaf) -> Sealed:
    """A listing that came in one piece: ``begin``, ``add`` and ``seal``."""
    listing = begin(db, name, synced_at_s)
    leaves.append(db, listing, leaf)
    return seal(db, name, listing)


class Difference(NamedTuple):
    """One name that a new listing has otherwise than the one before it; ``fingerprint`` is "" but for files."""

    kind: ChangeKind
    name: str
    fingerprint: str


@dataclass(frozen=True)
class Sealed:
    """A listing that became current: how many names it has, and what is not as it was (the first ones, if ``more``).
    A first listing (``is_first``) differs from nothing and leaves nothing to sweep."""

    names: int
    differences: tuple[Difference, ...] = ()
    more: bool = False
    is_first: bool = False


def seal(db: sqlite3.Connection, name: DirectoryName, listing: int) -> Sealed:
    """Makes a filled listing the current one.

    Raises:
        NotFound: the mount was removed, or its generation ended, while the listing was filled.
    """
    generation = db.execute("SELECT generation FROM generations WHERE mount_id = ?", name[:1]).fetchone()
    is_mounted = db.execute("SELECT 1 FROM mounts WHERE mount_id = ?", name[:1]).fetchone()
    if is_mounted is None or generation != (name.generation,):
        raise NotFound("the mount was removed while it was listed", mount_id=name.mount_id)
    count = leaves.count(db, listing)
    before = _current(db, name)
    found = () if before is None else tuple(differences(db, before[0], listing, DIFFERENCES_MAX + 1))
    bury(db, name)
    db.execute("UPDATE listings SET state = 'current', entry_count = ? WHERE listing = ?", (count, listing))
    return Sealed(count, found[:DIFFERENCES_MAX], len(found) > DIFFERENCES_MAX, is_first=before is None)


def differences(db: sqlite3.Connection, old: int, new: int, limit: int) -> Iterator[Difference]:
    """At most ``limit`` names that two listings have otherwise, in byte order."""
    found = (_difference(before, now) for before, now in leaves.pairs(db, old, new))
    return islice((each for each in found if each is not None), limit)


def _difference(before: Row | None, now: Row | None) -> Difference | None:
    if now is None:
        return Difference("removed", before.name, "") if before is not None else None
    if before is None:
        return Difference("added", now.name, now.fingerprint)
    if (before.kind, before.fingerprint) != (now.kind, now.fingerprint):
        return Difference("changed", now.name, now.fingerprint)
    return None


def bury(db: sqlite3.Connection, name: DirectoryName) -> bool:
    """The directory has no current listing any more; whether it had one."""
    where = "mount_id = ? AND generation = ? AND directory = ? AND state = 'current'"
    return db.execute(f"UPDATE listings SET state = 'dead' WHERE {where}", name).rowcount > 0


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
    some = "SELECT leaf FROM leaves WHERE listing = ? LIMIT ?"
    gone = db.execute(f"DELETE FROM leaves WHERE leaf IN ({some})", (*dead, SWEEP_LEAVES)).rowcount
    if gone < SWEEP_LEAVES:
        db.execute("DELETE FROM listings WHERE listing = ?", dead)
    return True


def page(db: sqlite3.Connection, name: DirectoryName, after: str, limit: int) -> Known | None:
    """At most ``limit`` rows behind the name ``after`` ("" is the beginning); ``None`` without a current listing."""
    found = _current(db, name)
    if found is None:
        return None
    listing, synced_at_s = found
    return Known(synced_at_s, leaves.rows(db, listing, after, limit))


def packed(db: sqlite3.Connection, name: DirectoryName, after: str, limit: int) -> tuple[float, Packed] | None:
    """As ``page``, as leaves: when the under store was asked, and the names."""
    found = _current(db, name)
    return None if found is None else (found[1], leaves.packed(db, found[0], after, limit))


def part(db: sqlite3.Connection, listing: int, after: str, before: str, limit: int) -> tuple[Row, ...] | None:
    """Rows between two names of a listing that is being filled, or was sealed since; ``None`` if it was thrown away."""
    state = db.execute("SELECT state FROM listings WHERE listing = ?", (listing,)).fetchone()
    if state is None or state[0] == "dead":
        return None
    rows = leaves.rows(db, listing, after, limit)
    return rows[: bisect_left(rows, before, key=lambda row: row.name)]


def find(db: sqlite3.Connection, name: DirectoryName, entry: str) -> Known | None:
    """The row ``entry`` of the directory, or no row if it is known not to be there; ``None`` without a listing."""
    found = _current(db, name)
    if found is None:
        return None
    listing, synced_at_s = found
    row = leaves.find(db, listing, entry)
    return Known(synced_at_s, () if row is None else (row,))


def _current(db: sqlite3.Connection, name: DirectoryName) -> tuple[int, float] | None:
    where = "mount_id = ? AND generation = ? AND directory = ? AND state = 'current'"
    found: tuple[int, float] | None = db.execute(
        f"SELECT listing, synced_at_s FROM listings WHERE {where}", name
    ).fetchone()
    return found


def next_directory(db: sqlite3.Connection, name: DirectoryName, after: str) -> str | None:
    """The first directory behind the name ``after`` in a directory; ``None`` too where there is no listing."""
    found = _current(db, name)
    return None if found is None else leaves.next_directory(db, found[0], after)


def synced_at(db: sqlite3.Connection, name: DirectoryName) -> float | None:
    """When the under store was asked for the current listing, if there is one."""
    found = _current(db, name)
    return None if found is None else found[1]


def listed_below(db: sqlite3.Connection, name: DirectoryName) -> list[str]:
    """Directories below a directory that have a current listing, in byte order."""
    low, high = (f"{name.directory}/", f"{name.directory}0") if name.directory else ("\0", "\U0010ffff")
    where = "mount_id = ? AND generation = ? AND directory > ? AND directory < ? AND state = 'current'"
    found = db.execute(f"SELECT directory FROM listings WHERE {where} ORDER BY directory", (*name[:2], low, high))
    return [directory for (directory,) in found]


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
