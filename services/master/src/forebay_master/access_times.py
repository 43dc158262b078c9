"""When files were last opened, as readers with ``update_access_time`` told: a table that is empty where nobody does.

Each master keeps what it was told (clients tell all of them). It is no truth about the under store, only a service:
rows go with their mount, and the longest unread ones when there are too many.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial

from forebay.contracts import AccessesRequest, Mount
from forebay_master import accesses
from forebay_master.accesses import AccessRow
from forebay_master.database import Database
from forebay_master.listings import DirectoryName
from forebay_master.namespace import MountTable, name_of, normalise, parent_of

ROWS_MAX = 4_000_000
"""Files whose last access is kept; beyond that the eighth that was not read for longest is forgotten."""


class AccessTimes:
    """``table`` reads the mount table of now; ``clock`` is wall time. ``rows``: how many files have one, at most."""

    def __init__(
        self,
        table: Callable[[], MountTable],
        database: Database,
        *,
        clock: Callable[[], float],
        rows_max: int = ROWS_MAX,
    ) -> None:
        self._table, self._database, self._clock = table, database, clock
        self._rows_max = rows_max
        self.rows = 0

    async def load(self) -> None:
        """Counts what is there from before."""
        self.rows = await self._database.read(accesses.count)

    async def tell(self, request: AccessesRequest) -> int:
        """Stores what was told; how much of it lies below a mount. A time to come is taken for now.

        Raises:
            InvalidRequest: a path that is none; nothing is stored then.
        """
        now_s, table = self._clock(), self._table()
        told = [_row(table, each.path, min(each.accessed_s, now_s)) for each in request.accesses]
        rows = [row for row in told if row is not None]
        if rows:
            self.rows += len(rows)  # some have one already: counted when there seem to be too many
            await self._database.write(partial(accesses.put, rows=rows))
        if self.rows > self._rows_max:
            self.rows = await self._database.write(partial(_fit, rows_max=self._rows_max))
        return len(rows)

    async def of(self, mount: Mount, directory: str, name: str) -> float | None:
        """When one file was opened."""
        if not self.rows:
            return None
        return await self._database.read(partial(accesses.one, name=DirectoryName.of(mount, directory), file=name))

    def one(self, db: sqlite3.Connection, mount: Mount, directory: str, name: str) -> float | None:
        """As ``of``, on a database thread."""
        return accesses.one(db, DirectoryName.of(mount, directory), name) if self.rows else None

    def among(
        self, db: sqlite3.Connection, mount: Mount, directory: str, *, after: str, through: str
    ) -> dict[str, float]:
        """When the files of a directory behind ``after`` up to ``through`` were opened. On a database thread."""
        return accesses.among(db, DirectoryName.of(mount, directory), after, through) if self.rows else {}


def _row(table: MountTable, path: str, accessed_s: float) -> AccessRow | None:
    place = table.place(normalise(path))
    if place.mount is None or place.is_given:
        return None
    directory, name = parent_of(f"/{place.key}").lstrip("/"), name_of(place.key)
    return (*DirectoryName.of(place.mount, directory), name, accessed_s)


def _fit(db: sqlite3.Connection, rows_max: int) -> int:
    if accesses.count(db) > rows_max:
        accesses.shrink(db, rows_max - rows_max // 8)
    return accesses.count(db)
