"""Where loads are kept: a protocol, and the master's own SQLite file behind it."""

from __future__ import annotations

import sqlite3
from typing import Protocol

from forebay.contracts import decode_stored, encode
from forebay.contracts.loads import LoadStatus
from forebay.errors import InternalError, InvalidRequest
from forebay_master.database import Database

_SCHEMA = "CREATE TABLE IF NOT EXISTS loads (load_id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID"


class JobStore(Protocol):
    """Durable loads. What ``put`` returned from survives the machine."""

    def check(self) -> None:
        """Raises ``NotLeader`` where another master runs the loads."""

    async def begin(self) -> list[LoadStatus]:
        """All of them, in no order; until this master's term is over only it changes them."""

    async def put(self, status: LoadStatus) -> None:
        """Stores a load in its present state."""

    async def remove(self, load_id: str) -> None:
        """Forgets a load."""


class SqliteJobStore:
    """Loads of one master, in its state directory. The table is made when it is first needed: an older master leaves it
    alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def check(self) -> None:
        """This master runs them."""

    async def begin(self) -> list[LoadStatus]:
        """See ``JobStore.begin``."""
        await self._database.write(lambda db: db.execute(_SCHEMA), durable=True)
        return await self._database.read(_read)

    async def put(self, status: LoadStatus) -> None:
        """See ``JobStore.put``."""
        row = (status.load_id, encode(status))
        await self._database.write(
            lambda db: db.execute("INSERT OR REPLACE INTO loads VALUES (?, ?)", row), durable=True
        )

    async def remove(self, load_id: str) -> None:
        """See ``JobStore.remove``."""
        await self._database.write(lambda db: db.execute("DELETE FROM loads WHERE load_id = ?", (load_id,)))


def _read(db: sqlite3.Connection) -> list[LoadStatus]:
    rows = db.execute("SELECT load_id, record FROM loads").fetchall()
    found = []
    for load_id, record in rows:
        try:
            found.append(decode_stored(LoadStatus, record))
        except InvalidRequest as e:
            raise InternalError(f"load {load_id} in the state directory cannot be read: {e.message}") from e
    return found
