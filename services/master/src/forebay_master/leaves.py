"""The leaves of a listing in SQLite: up to 256 names in one row, as columns, in byte order over all leaves.

A row a name would cost SQLite's work for each of them; and the bytes of whole leaves go to clients as they are. Under
stores mostly give names in order, so leaves are mostly appended; names that come late (a prefix `a/` comes after `a-1`)
are merged into the leaf they belong to, which is then cut anew.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from forebay.contracts.leaves import (
    DIRECTORY_BIT,
    LEAF_NAMES,
    Leaf,
    cut,
    decode_leaf,
    encode_leaf,
)
from forebay_master.entries import DIRECTORY, FILE, Row, leaf_of

_BEHIND = "SELECT body FROM leaves WHERE listing = ? AND last > ? ORDER BY last"


@dataclass(frozen=True)
class Packed:
    """Names as encoded leaves: how many, the last of them, and whether there are more behind it."""

    leaves: tuple[bytes, ...] = ()
    count: int = 0
    last: str = ""
    more: bool = False


def rows_of(leaf: Leaf) -> list[Row]:
    """The names of a leaf, one by one."""
    return [
        Row(name, DIRECTORY if mode & DIRECTORY_BIT else FILE, size, mtime_ns, mode & ~DIRECTORY_BIT, fingerprint)
        for name, mode, size, mtime_ns, fingerprint in zip(
            leaf.names, leaf.modes, leaf.sizes, leaf.mtimes_ns, leaf.fingerprints, strict=True
        )
    ]


def merged(rows: Iterable[Row]) -> list[Row]:
    """In byte order, each name once: of a file and a directory of one name the directory, else the last."""
    by_name: dict[str, Row] = {}
    for row in rows:
        if row.kind == DIRECTORY or (there := by_name.get(row.name)) is None or there.kind != DIRECTORY:
            by_name[row.name] = row
    return sorted(by_name.values())


def put(db: sqlite3.Connection, listing: int, rows: Sequence[Row], *, size: int = LEAF_NAMES) -> None:
    """Adds names to a listing, in any order; ``size`` names at most make a leaf."""
    fresh = merged(rows)
    top = db.execute("SELECT max(last) FROM leaves WHERE listing = ?", (listing,)).fetchone()[0]
    late = 0 if top is None else bisect_right(fresh, top, key=lambda row: row.name)
    _merge(db, listing, fresh[:late], size)
    append(db, listing, leaf_of(fresh[late:]), size=size)


def append(db: sqlite3.Connection, listing: int, leaf: Leaf, *, size: int = LEAF_NAMES) -> None:
    """Adds names in byte order, all of them behind those that are there."""
    parts = (cut(leaf, at, at + size) for at in range(0, len(leaf), size))
    db.executemany(
        "INSERT INTO leaves (listing, last, count, directories, body) VALUES (?, ?, ?, ?, ?)",
        (
            (listing, part.names[-1], len(part), sum(mode >= DIRECTORY_BIT for mode in part.modes), encode_leaf(part))
            for part in parts
        ),
    )


def _merge(db: sqlite3.Connection, listing: int, late: Sequence[Row], size: int) -> None:
    at = 0
    while at < len(late):
        number, last, body = db.execute(
            "SELECT leaf, last, body FROM leaves WHERE listing = ? AND last >= ? ORDER BY last LIMIT 1",
            (listing, late[at].name),
        ).fetchone()
        end = bisect_right(late, last, lo=at, key=lambda row: row.name)
        db.execute("DELETE FROM leaves WHERE leaf = ?", (number,))
        append(db, listing, leaf_of(merged((*rows_of(decode_leaf(body)), *late[at:end]))), size=size)
        at = end


def rows(db: sqlite3.Connection, listing: int, after: str, limit: int) -> tuple[Row, ...]:
    """At most ``limit`` names behind ``after``."""
    found: list[Row] = []
    for (body,) in db.execute(_BEHIND, (listing, after)):
        leaf = decode_leaf(body)
        start = 0 if found else bisect_right(leaf.names, after)
        found += rows_of(cut(leaf, start, start + limit - len(found)))
        if len(found) >= limit:
            break
    return tuple(found)


def packed(db: sqlite3.Connection, listing: int, after: str, limit: int) -> Packed:
    """As ``rows``, as leaves: those that are given whole cost nothing for each name."""
    found: list[bytes] = []
    taken, end = 0, after
    for last, count, body in db.execute(
        "SELECT last, count, body FROM leaves WHERE listing = ? AND last > ? ORDER BY last", (listing, after)
    ):
        if taken == limit:
            return Packed(tuple(found), taken, end, more=True)
        if (not taken and after) or taken + count > limit:
            leaf = decode_leaf(body)
            start = 0 if taken else bisect_right(leaf.names, after)
            part = cut(leaf, start, start + limit - taken)
            found.append(encode_leaf(part))
            taken, end = taken + len(part), part.names[-1]
            if end != last:
                return Packed(tuple(found), taken, end, more=True)
        else:
            found.append(body)
            taken, end = taken + count, last
    return Packed(tuple(found), taken, end)


def find(db: sqlite3.Connection, listing: int, name: str) -> Row | None:
    """One name."""
    body = db.execute(
        "SELECT body FROM leaves WHERE listing = ? AND last >= ? ORDER BY last LIMIT 1", (listing, name)
    ).fetchone()
    if body is None:
        return None
    leaf = decode_leaf(body[0])
    at = bisect_left(leaf.names, name)
    return rows_of(cut(leaf, at, at + 1))[0] if at < len(leaf) and leaf.names[at] == name else None


def next_directory(db: sqlite3.Connection, listing: int, after: str) -> str | None:
    """The first directory behind a name."""
    found = db.execute(
        "SELECT body FROM leaves WHERE listing = ? AND last > ? AND directories > 0 ORDER BY last", (listing, after)
    )
    for (body,) in found:
        names = _directories(body)
        if (at := bisect_right(names, after)) < len(names):
            return names[at]
    return None


@lru_cache(maxsize=16)
def _directories(body: bytes) -> list[str]:
    """Of a leaf. A walk asks for one after the other."""
    leaf = decode_leaf(body)
    return [name for name, mode in zip(leaf.names, leaf.modes, strict=True) if mode & DIRECTORY_BIT]


def count(db: sqlite3.Connection, listing: int) -> int:
    """How many names."""
    return int(db.execute("SELECT coalesce(sum(count), 0) FROM leaves WHERE listing = ?", (listing,)).fetchone()[0])


def pairs(db: sqlite3.Connection, old: int, new: int) -> Iterator[tuple[Row | None, Row | None]]:
    """The names of two listings in byte order, each as it is in the old and in the new one. Leaves that are equal in
    both are passed over."""
    sides = (_Side(db, old), _Side(db, new))
    while True:
        _pass_equal(*sides)
        before, after = (side.first for side in sides)
        if before is None and after is None:
            return
        takes_old = before is not None and (after is None or before.name <= after.name)
        takes_new = after is not None and (before is None or after.name <= before.name)
        yield (before if takes_old else None, after if takes_new else None)
        for side, takes in zip(sides, (takes_old, takes_new), strict=True):
            if takes:
                side.drop()


class _Side:
    """One listing, read leaf by leaf: ``body`` is the leaf whose names come next, untouched while ``at`` is 0."""

    def __init__(self, db: sqlite3.Connection, listing: int) -> None:
        self._bodies = db.execute(_BEHIND, (listing, ""))
        self.body: bytes | None = b""
        self.at = 0
        self._rows: list[Row] | None = None
        self.next_leaf()

    def next_leaf(self) -> None:
        """On to the next leaf."""
        found = self._bodies.fetchone()
        self.body, self.at, self._rows = None if found is None else found[0], 0, None

    @property
    def first(self) -> Row | None:
        """The name that comes next."""
        if self.body is None:
            return None
        if self._rows is None:
            self._rows = rows_of(decode_leaf(self.body))
        return self._rows[self.at]

    def drop(self) -> None:
        """Past that name."""
        self.at += 1
        if self._rows is not None and self.at == len(self._rows):
            self.next_leaf()


def _pass_equal(old: _Side, new: _Side) -> None:
    while old.body is not None and old.at == new.at == 0 and old.body == new.body:
        old.next_leaf()
        new.next_leaf()
