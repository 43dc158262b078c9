"""Elections in memory: candidates in line, a leader with an epoch, tables that only the leader's writes reach.

Nobody is deposed by itself: a test ends a candidate's session, or pauses a candidate, who then goes on believing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from forebay.contracts import Member
from forebay.discovery.news import News
from forebay.discovery.terms import Leader, Table, changed_table, next_leader
from forebay.errors import Conflict, NotFound, NotLeader, PeerUnavailable


class MemoryElections:
    """What all candidates of one cluster share."""

    def __init__(self) -> None:
        self.leader: Leader | None = None
        self.tables: dict[str, Table] = {}
        self._line: list[MemoryElection] = []
        self._sessions = 0

    def stand(self, candidate: Member, tables: tuple[str, ...], is_reachable: Callable[[], bool]) -> MemoryElection:
        """A new candidate, last in line."""
        self._sessions += 1
        election = MemoryElection(self, candidate, self._sessions, MemoryLedger(self, tables, is_reachable))
        self._line.append(election)
        self.settle()
        return election

    def leave(self, election: MemoryElection) -> None:
        """The candidate's session ends, whether it hears of it or not; the next in line leads."""
        if election in self._line:
            self._line.remove(election)
        self.settle()

    def settle(self) -> None:
        """The first in line leads, and everybody hears it."""
        if self._line and not self._line[0].has_won(self.leader):
            first = self._line[0]
            self.leader = next_leader(self.leader, first.member_id, first.tcp, first.session, least=1)
        self.tell()

    def tell(self) -> None:
        """Everybody in line looks."""
        for election in self._line:
            election.hear(self.leader)


class MemoryElection:
    """``Election`` over ``MemoryElections``."""

    def __init__(self, elections: MemoryElections, candidate: Member, session: int, ledger: MemoryLedger) -> None:
        self.member_id, self.tcp, self.session = candidate.member_id, candidate.tcp, session
        self.ledger = ledger
        self._elections = elections
        self._known: Leader | None = None
        self._news = News("the leader")
        ledger.owner = self

    def leader(self) -> Leader | None:
        """The leader last heard."""
        return self._known

    def is_leading(self) -> bool:
        """As far as it was told."""
        return self.has_won(self._known)

    def has_won(self, leader: Leader | None) -> bool:
        """Whether that leader is this candidate."""
        return leader is not None and leader.session == f"{self.session:x}"

    def hear(self, leader: Leader | None) -> None:
        """The cluster's side: news."""
        self._known = leader
        self._news.tell()
        self.ledger.news.tell()

    async def changed(self, epoch: int, timeout_s: float) -> Leader | None:
        """A leader of another epoch."""
        await self._news.until(lambda: self._known is not None and self._known.epoch != epoch, timeout_s)
        return self._known if self._known is not None and self._known.epoch != epoch else None

    def depose(self) -> None:
        """Its session ends, and it does not hear of it."""
        self._elections.leave(self)

    async def close(self) -> None:
        """Makes room."""
        self._elections.leave(self)
        if self.is_leading():
            self._known = None
        self._news.close()
        self.ledger.news.close()

    def validate(self) -> None:
        """At rest nobody waits."""
        assert self._news.waiting == 0
        assert self.ledger.news.waiting == 0


class MemoryLedger:
    """``Ledger`` over ``MemoryElections``."""

    owner: MemoryElection

    def __init__(self, elections: MemoryElections, names: tuple[str, ...], is_reachable: Callable[[], bool]) -> None:
        self._elections, self._names, self._is_reachable = elections, names, is_reachable
        self.news = News("a table")

    def table(self, name: str) -> Table | None:
        """The table as it is."""
        if name not in self._names:
            raise NotFound(f"there is no table {name!r}", table=name)
        return self._elections.tables.get(name, Table())

    async def changed(self, name: str, after: int, timeout_s: float) -> Table | None:
        """The table of another revision."""

        def now() -> Table | None:
            table = self.table(name)
            return table if table is not None and table.revision != after else None

        await self.news.until(lambda: now() is not None, timeout_s)
        return now()

    async def commit(self, name: str, changes: Mapping[str, bytes | None], *, after: int) -> Table:
        """All or nothing, by the leader alone."""
        if not self._is_reachable():
            raise PeerUnavailable("the registry in memory took no change", address="memory")
        leader = self._elections.leader
        if not self.owner.has_won(leader):
            raise NotLeader("this process does not lead", leader=leader.tcp if leader is not None else None)
        table = self.table(name)
        if table is None or table.revision != after:
            raise Conflict("the table has changed", table=name)
        self._elections.tables[name] = following = changed_table(table, changes)
        self._elections.tell()
        return following
