"""Tables in znodes: followed by every process that elects, changed by the leader alone, each change fenced.

A change is one transaction: the leader's znode has our version, the table's head has the version we know, then head and
records. So it is either on top of exactly what this process knows, by the present leader, or it is nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from forebay.contracts import encode
from forebay.discovery.news import News
from forebay.discovery.terms import Leader, Table, TableHead, changed_keys, changed_table, next_head, parse_head
from forebay.discovery.znodes import Paths, name_of
from forebay.discovery.zookeeper import Check, Create, Delete, Part, Set, ZooKeeper
from forebay.errors import Conflict, NotFound, NotLeader, NotReady, PeerUnavailable
from forebay.runtime import logs

READS_AT_ONCE = 32
ATTEMPTS_MAX = 5
"""Looks at a table that changes meanwhile, before the next round."""

REFRESH_S = 30.0
"""A table's head is read again after this time, watches or not."""

LOG = logs.get(__name__)


@dataclass
class _Followed:
    """One table: what is known, the version of its head (``None``: there is none), and when it was last looked at."""

    known: Table | None = None
    head: TableHead = field(default_factory=lambda: TableHead(revision=0))
    version: int | None = None
    looked_s: float | None = None


class ZooKeeperLedger:
    """``Ledger`` over the connection of an election, whose loop calls ``follow``.

    Args:
        fence: the check that every write carries; ``None`` while another leads.
        leader: who leads, as far as is known.
        on_fenced: called when a write showed that another leads.
    """

    def __init__(
        self,
        zookeeper: ZooKeeper,
        paths: Paths,
        tables: tuple[str, ...],
        *,
        fence: Callable[[], Check | None],
        leader: Callable[[], Leader | None],
        on_fenced: Callable[[], None],
    ) -> None:
        self._zookeeper, self._paths = zookeeper, paths
        self._fence, self._leader, self._on_fenced = fence, leader, on_fenced
        self._tables = {name: _Followed() for name in tables}
        self.news = News("a table")

    def table(self, name: str) -> Table | None:
        """See ``Ledger.table``."""
        return self._of(name).known

    async def changed(self, name: str, after: int, timeout_s: float) -> Table | None:
        """See ``Ledger.changed``."""
        followed = self._of(name)
        await self.news.until(lambda: followed.known is not None and followed.known.revision != after, timeout_s)
        known = followed.known
        return known if known is not None and known.revision != after else None

    async def commit(self, name: str, changes: Mapping[str, bytes | None], *, after: int) -> Table:
        """See ``Ledger.commit``."""
        followed, fence = self._of(name), self._fence()
        if fence is None:
            raise self.not_leader()
        if followed.known is None:
            raise NotReady("the tables have not been read yet; try again")
        if followed.known.revision != after:
            raise Conflict("the table has changed", table=name, revision=followed.known.revision)
        table = changed_table(followed.known, changes)
        head, version = next_head(followed.head, sorted(changes)), followed.version
        try:
            await self._zookeeper.commit(fence, *self._parts(name, followed, head, changes))
        except Conflict as e:
            followed.looked_s = None
            self._on_fenced()
            if e.details["part"] == 0:
                raise self.not_leader() from e
            raise
        if followed.known is None or followed.known.revision == after:  # else the loop has read it already
            followed.known, followed.head = table, head
            followed.version = 0 if version is None else version + 1
            self.news.tell()
        return table

    async def follow(self) -> None:
        """Reads what changed. Raises what the connection raises."""
        for name, followed in self._tables.items():
            if followed.looked_s is None or time.monotonic() - followed.looked_s >= REFRESH_S:
                await self._look(name, followed)

    def fired(self, path: str) -> None:
        """A watch: the empty path means that all were lost."""
        for name, followed in self._tables.items():
            if path in ("", self._paths.table(name)):
                followed.looked_s = None

    def not_leader(self) -> NotLeader:
        """The answer to a change that another must make."""
        leader = self._leader()
        where = f"ask {leader.tcp}" if leader is not None else "nobody does at the moment"
        return NotLeader(f"this master does not lead; {where}", leader=leader.tcp if leader is not None else None)

    def _of(self, name: str) -> _Followed:
        if name not in self._tables:
            raise NotFound(f"there is no table {name!r}", table=name)
        return self._tables[name]

    def _parts(
        self, name: str, followed: _Followed, head: TableHead, changes: Mapping[str, bytes | None]
    ) -> list[Part]:
        path, data = self._paths.table(name), encode(head)
        records = followed.known.records if followed.known is not None else {}
        parts: list[Part] = [Create(path, data) if followed.version is None else Set(path, data, followed.version)]
        for key, record in changes.items():
            place = self._paths.record(name, key)
            if record is None:
                parts.extend([Delete(place)] if key in records else [])
            else:
                parts.append(Set(place, record, -1) if key in records else Create(place, record))
        return parts

    async def _look(self, name: str, followed: _Followed) -> None:
        for _ in range(ATTEMPTS_MAX):
            followed.looked_s = time.monotonic()  # before the read: a watch that fires during it counts
            try:
                if await self._read(name, followed):
                    return
            except BaseException:
                followed.looked_s = None
                raise
        followed.looked_s = None
        raise PeerUnavailable("a table changes faster than it can be read", table=name)

    async def _read(self, name: str, followed: _Followed) -> bool:
        """Whether what was read is of one moment."""
        path = self._paths.table(name)
        node = await self._zookeeper.get(path, watch=True)
        head = TableHead(revision=0) if node is None else parse_head(node.data, path)
        version = None if node is None else node.version
        before = followed.known
        keys = changed_keys(head, before.revision) if before is not None else None
        if keys is None:
            names = [] if node is None else await self._zookeeper.children(path)
            records = await self._records(name, [name_of(child) for child in names])
        else:
            assert before is not None
            rest = {key: data for key, data in before.records.items() if key not in keys}
            records = rest | await self._records(name, sorted(keys))
        if keys != frozenset():
            again = await self._zookeeper.get(path)
            if (again.version if again is not None else None) != version:
                return False
        # A commit of our own may have been quicker.
        if followed.known is before:
            followed.known, followed.head, followed.version = Table(head.revision, records), head, version
            if before is None or before.revision != head.revision:
                self.news.tell()
        return followed.known is not None and followed.known.revision >= head.revision

    async def _records(self, name: str, keys: list[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for start in range(0, len(keys), READS_AT_ONCE):
            some = keys[start : start + READS_AT_ONCE]
            nodes = await asyncio.gather(*(self._zookeeper.get(self._paths.record(name, key)) for key in some))
            found.update({key: node.data for key, node in zip(some, nodes, strict=True) if node is not None})
        return found
