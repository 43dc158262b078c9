"""The mount table of a cluster with several masters: in ZooKeeper, changed by the leader alone, followed by all.

One record a mount, and one that says that a leader has put there what its settings give. Each master keeps a copy in
its own SQLite, for that is where the listings are that go when a mount goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from forebay.contracts import Mount, Record, decode_stored, encode
from forebay.discovery import Ledger, Table
from forebay.errors import Conflict, InvalidRequest, NotReady, PeerMisbehaved
from forebay.runtime import logs
from forebay_master import records
from forebay_master.database import Database
from forebay_master.records import MountOrigin, StoredMounts

TABLE = "mounts"
SETTLED = "settled"
"""Key of the record that a leader writes when its settings' mounts are in the table (mounts' ids begin with ``m-``)."""

WAIT_S = 60.0

LOG = logs.get(__name__)


class MountRecord(Record, frozen=True):
    """One mount in the table."""

    origin: MountOrigin
    mount: Mount


class ZnodeMountStore:
    """``MountStore`` over a ledger. ``ledger`` gives ``None`` until the election has begun."""

    def __init__(self, database: Database, ledger: Callable[[], Ledger | None], leads: Callable[[], None]) -> None:
        self._database, self._ledger, self._leads = database, ledger, leads
        self._taken: Table | None = None

    def check(self) -> None:
        """See ``MountStore.check``."""
        self._leads()

    @property
    def is_settled(self) -> bool:
        """Whether what was taken last has all that the leader's settings give."""
        return self._taken is not None and SETTLED in self._taken.records

    async def load(self) -> StoredMounts:
        """See ``MountStore.load``: what ZooKeeper has, else this master's copy from before."""
        ledger = self._ledger()
        table = ledger.table(TABLE) if ledger is not None else None
        if table is None:
            return await self._database.read(records.load_mounts)
        return await self._take(table)

    async def wait(self, after: int) -> None:
        """See ``MountStore.wait``; the first time, until there is a table at all."""
        known = -1 if self._taken is None else after
        ledger = self._ledger()
        if ledger is None:
            raise NotReady("no election has begun")
        while await ledger.changed(TABLE, known, WAIT_S) is None:
            pass

    async def next_generation(self, mount_id: str) -> int:
        """The revision of the change that makes the mount: it grows with every change of the table."""
        return self._known().revision + 1

    async def put(self, mount: Mount, origin: MountOrigin) -> int:
        """See ``MountStore.put``."""
        there = parse(self._known()).mounts
        changes: dict[str, bytes | None] = {each.mount_id: None for each in there if each.path == mount.path}
        return await self._commit({**changes, mount.mount_id: encode(MountRecord(origin=origin, mount=mount))})

    async def remove(self, mount_id: str) -> int:
        """See ``MountStore.remove``."""
        return await self._commit({mount_id: None})

    async def set_origin(self, mount_id: str, origin: MountOrigin) -> None:
        """See ``MountStore.set_origin``."""
        record = decode_stored(MountRecord, self._known().records[mount_id])
        if record.origin != origin:
            await self._commit({mount_id: encode(MountRecord(origin=origin, mount=record.mount))})

    async def settled(self) -> None:
        """The leader's settings are in the table."""
        if not self.is_settled:
            await self._commit({SETTLED: b"{}"})

    def _known(self) -> Table:
        if self._taken is None:
            raise NotReady("the mount table has not been read yet; try again")
        return self._taken

    async def _commit(self, changes: Mapping[str, bytes | None]) -> int:
        ledger = self._ledger()
        if ledger is None:
            raise NotReady("no election has begun")
        try:
            table = await ledger.commit(TABLE, changes, after=self._known().revision)
        except Conflict as e:
            raise NotReady("the mount table has just changed; try again") from e
        await self._take(table)
        return table.revision

    async def _take(self, table: Table) -> StoredMounts:
        stored = parse(table)
        if self._taken is None or self._taken.revision != table.revision:
            await self._database.write(partial(records.mirror_mounts, stored=stored), durable=True)
        self._taken = table
        return stored


def parse(table: Table) -> StoredMounts:
    """The mounts of a table, in order of paths.

    Raises:
        PeerMisbehaved: a record that this build cannot read.
    """
    read = [_read(key, data) for key, data in table.records.items() if key != SETTLED]
    mounts = sorted((record.mount for record in read), key=lambda mount: mount.path)
    return StoredMounts(table.revision, tuple(mounts), {record.mount.mount_id: record.origin for record in read})


def _read(key: str, data: bytes) -> MountRecord:
    try:
        record = decode_stored(MountRecord, data)
    except InvalidRequest as e:
        raise PeerMisbehaved(f"mount {key} in ZooKeeper cannot be read: {e.message}") from e
    if record.mount.mount_id != key:
        raise PeerMisbehaved(f"mount {key} in ZooKeeper is {record.mount.mount_id}")
    return record
