"""Where the mount table is kept: what ``mounts`` asks of it, and the one in this master's own SQLite.

A change returns when it is durable, and says the table's new revision. Whoever waits for what others changed asks
``wait``; where one master alone changes the table, nothing ever comes.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from forebay.contracts import Mount
from forebay_master import records
from forebay_master.database import Database
from forebay_master.records import MountOrigin, StoredMounts


class MountStore(Protocol):
    """The durable mount table. For one event loop; one change at a time (``mounts`` holds a lock)."""

    def check(self) -> None:
        """Raises ``NotLeader`` where another master makes the changes."""

    async def load(self) -> StoredMounts:
        """The table as this master last knew it."""

    async def wait(self, after: int) -> None:
        """Until another master has changed the table; ``after`` is the revision that is known."""

    async def next_generation(self, mount_id: str) -> int:
        """The generation that the next mount of this id has: more than any before it, over removals too."""

    async def put(self, mount: Mount, origin: MountOrigin) -> int:
        """Stores what is mounted at a path now, in place of what was there; the table's new revision."""

    async def remove(self, mount_id: str) -> int:
        """Takes a mount out; the table's new revision."""

    async def set_origin(self, mount_id: str, origin: MountOrigin) -> None:
        """Whose mount it is from now on; clients see no change."""


class SqliteMountStore:
    """The mount table of a master that is alone: in its state directory, synced to disk before a change returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def check(self) -> None:
        """This master makes them."""

    async def load(self) -> StoredMounts:
        """See ``MountStore.load``."""
        return await self._database.read(records.load_mounts)

    async def wait(self, after: int) -> None:
        """Nobody else changes it."""
        await asyncio.Event().wait()

    async def next_generation(self, mount_id: str) -> int:
        """See ``MountStore.next_generation``."""
        return await self._database.read(lambda db: records.next_generation(db, mount_id))

    async def put(self, mount: Mount, origin: MountOrigin) -> int:
        """See ``MountStore.put``; what was listed of the mount that was there is forgotten with it."""
        return await self._database.write(lambda db: records.put_mount(db, mount, origin), durable=True)

    async def remove(self, mount_id: str) -> int:
        """See ``MountStore.remove``; what was listed of it is forgotten with it."""
        return await self._database.write(lambda db: records.remove_mount(db, mount_id), durable=True)

    async def set_origin(self, mount_id: str, origin: MountOrigin) -> None:
        """See ``MountStore.set_origin``."""
        await self._database.write(lambda db: records.set_origin(db, mount_id, origin), durable=True)
