"""The small durable truth in SQLite: mounts with their generations and the table's revision, and the cluster map.

Plain functions over a connection. Records are kept as their wire form; what this build cannot read is an error at
start, never skipped.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

from forebay.contracts import ClusterMap, Mount, Record, decode_stored, encode
from forebay.errors import InternalError, InvalidRequest
from forebay_master import accesses, failures, listings

MountOrigin = Literal["settings", "api"]
"""Whether a mount was given at start or by a call. The former go when the settings no longer have them."""

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class StoredMounts:
    """The mount table as stored, with each mount's origin by its id."""

    revision: int
    mounts: tuple[Mount, ...]
    origins: dict[str, MountOrigin]


def load_mounts(db: sqlite3.Connection) -> StoredMounts:
    """Raises ``InternalError`` for a record that cannot be read."""
    rows = db.execute("SELECT mount_id, origin, record FROM mounts ORDER BY path").fetchall()
    mounts = tuple(_read(Mount, record, f"mount {mount_id}") for mount_id, _, record in rows)
    return StoredMounts(_revision(db), mounts, {mount_id: origin for mount_id, origin, _ in rows})


def next_generation(db: sqlite3.Connection, mount_id: str) -> int:
    """The generation that the next mount of this id has: one more than any before it, over removals too."""
    found = db.execute("SELECT generation FROM generations WHERE mount_id = ?", (mount_id,)).fetchone()
    return 1 if found is None else int(found[0]) + 1


def put_mount(db: sqlite3.Connection, mount: Mount, origin: MountOrigin) -> int:
    """Stores what is mounted at a path now, forgets what was listed of what was there; the table's new revision."""
    for (old_id,) in db.execute("SELECT mount_id FROM mounts WHERE path = ?", (mount.path,)).fetchall():
        _forget(db, old_id)
    db.execute("INSERT OR REPLACE INTO mounts VALUES (?, ?, ?, ?)", (mount.mount_id, mount.path, origin, encode(mount)))
    db.execute("INSERT OR REPLACE INTO generations VALUES (?, ?)", (mount.mount_id, mount.generation))
    return _grow(db)


def remove_mount(db: sqlite3.Connection, mount_id: str) -> int:
    """Takes a mount out and forgets what was listed of it; the table's new revision."""
    _forget(db, mount_id)
    db.execute("DELETE FROM mounts WHERE mount_id = ?", (mount_id,))
    return _grow(db)


def mirror_mounts(db: sqlite3.Connection, stored: StoredMounts) -> None:
    """Makes the table here a copy of what is stored elsewhere; what was listed of mounts that went is forgotten."""
    staying = {(mount.mount_id, mount.generation) for mount in stored.mounts}
    for mount in load_mounts(db).mounts:
        if (mount.mount_id, mount.generation) not in staying:
            _forget(db, mount.mount_id)
    db.execute("DELETE FROM mounts")
    rows = [(each.mount_id, each.path, stored.origins[each.mount_id], encode(each)) for each in stored.mounts]
    db.executemany("INSERT INTO mounts VALUES (?, ?, ?, ?)", rows)
    generations = [(each.mount_id, each.generation) for each in stored.mounts]
    db.executemany("INSERT OR REPLACE INTO generations VALUES (?, ?)", generations)
    db.execute("UPDATE meta SET value = ? WHERE name = 'mounts_revision'", (stored.revision,))


def set_origin(db: sqlite3.Connection, mount_id: str, origin: MountOrigin) -> None:
    """Whose mount it is from now on; clients see no change."""
    db.execute("UPDATE mounts SET origin = ? WHERE mount_id = ?", (origin, mount_id))


def load_map(db: sqlite3.Connection) -> ClusterMap | None:
    """The last stored cluster map, with the highest epoch that any stored one had."""
    found = db.execute("SELECT epoch, record FROM cluster_map").fetchone()
    if found is None:
        return None
    epoch, record = found
    cluster_map = _read(ClusterMap, record, "the cluster map")
    return msgspec.structs.replace(cluster_map, epoch=max(epoch, cluster_map.epoch))


def save_map(db: sqlite3.Connection, cluster_map: ClusterMap) -> None:
    """Replaces the stored map. Its epoch may be lower than the stored one (a map that was stored, and whose publishing
    was then cancelled, may be followed by one without its change): the stored number never falls."""
    db.execute(
        "INSERT INTO cluster_map VALUES (1, ?, ?) ON CONFLICT (one) DO UPDATE SET"
        " epoch = max(epoch, excluded.epoch), record = excluded.record",
        (cluster_map.epoch, encode(cluster_map)),
    )


def _forget(db: sqlite3.Connection, mount_id: str) -> None:
    """What was listed of a mount, what failed, and when its files were opened."""
    listings.bury_mount(db, mount_id)
    failures.drop_mount(db, mount_id)
    accesses.drop_mount(db, mount_id)


def _revision(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT value FROM meta WHERE name = 'mounts_revision'").fetchone()[0])


def _grow(db: sqlite3.Connection) -> int:
    db.execute("UPDATE meta SET value = value + 1 WHERE name = 'mounts_revision'")
    return _revision(db)


def _read(kind: type[R], data: bytes, what: str) -> R:
    try:
        return decode_stored(kind, data)
    except InvalidRequest as e:
        raise InternalError(f"{what} in the state directory cannot be read: {e.message}") from e
