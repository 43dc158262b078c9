"""``Election`` over ZooKeeper: this process's candidate, the leader's znode, and the tables that the leader writes.

One loop, as in the registry: it compares what should be with what is there; watches, changes of the connection and time
only wake it. A session that ended takes the candidate with it; the next in line writes itself into the leader's znode,
in one transaction that also checks that its own candidate still stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from forebay.contracts import Member, encode
from forebay.contracts.tickets import KeyRing
from forebay.discovery.access import access
from forebay.discovery.link import Link
from forebay.discovery.news import News
from forebay.discovery.protocol import RegistryOptions
from forebay.discovery.terms import Leader, candidate_prefix, first_candidate, next_leader, parse_leader
from forebay.discovery.znodes import Paths
from forebay.discovery.zookeeper import Check, Create, Set, Znode, ZooKeeper
from forebay.discovery.zookeeper_ledger import ZooKeeperLedger
from forebay.errors import Conflict, ForebayError
from forebay.runtime import Supervisor, logs
from forebay.telemetry import Telemetry

REFRESH_S = 30.0
"""Everything is read again after this time, watches or not."""

PROTECTS_AT_ONCE = 32

LOG = logs.get(__name__)


class ZooKeeperElection:
    """See ``protocol.Election`` for what it promises. ``start`` first."""

    def __init__(
        self,
        hosts: Sequence[str],
        chroot: str,
        *,
        cluster_id: str,
        candidate: Member,
        telemetry: Telemetry,
        keys: KeyRing | None = None,
        tables: tuple[str, ...] = (),
        options: RegistryOptions | None = None,
    ) -> None:
        self.options = o = options or RegistryOptions()
        self._member_id, self._tcp = candidate.member_id, candidate.tcp
        self._paths = paths = Paths(chroot, cluster_id)
        self._wake = asyncio.Event()
        self._zookeeper = ZooKeeper(
            hosts,
            session_s=o.ttl_s,
            call_timeout_s=o.call_timeout_s,
            on_change=self._changed_state,
            on_watch=self._fired,
            access=access(paths, keys),
        )
        self._link = Link(self._zookeeper.address, telemetry, retry_min_s=o.retry_min_s, retry_max_s=o.retry_max_s)
        self._leader: Leader | None = None
        self._version: int | None = None
        self._term_session: int | None = None
        self._prepared_connection = 0
        self._protected_epoch: int | None = None
        self._news = News("the leader")
        self._listeners: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self.ledger = ZooKeeperLedger(
            self._zookeeper,
            paths,
            tables,
            fence=self.fence,
            leader=lambda: None if self._is_my_old_term() else self._leader,
            on_fenced=self._fenced,
        )
        telemetry.metrics.observed(
            "forebay_discovery_leading", "1 while this process leads, as far as it can know", self.is_leading
        )
        telemetry.metrics.observed(
            "forebay_discovery_leader_epoch",
            "Epoch of the leader that is known",
            lambda: self._leader.epoch if self._leader else 0,
        )

    def start(self) -> None:
        """Begins; goes on until ``close``."""
        self._task = asyncio.create_task(self._run(), name="zookeeper-election")

    def leader(self) -> Leader | None:
        """See ``Election.leader``."""
        return self._leader

    def is_leading(self) -> bool:
        """See ``Election.is_leading``."""
        return self.fence() is not None

    def fence(self) -> Check | None:
        """What every write of the leader checks; ``None`` while another leads."""
        if self._version is None or self._term_session != self._zookeeper.session or self._lease_is_over():
            return None
        return Check(self._paths.leader, self._version)

    def listen(self, listener: Callable[[], None]) -> None:
        """``listener`` is called on the loop when the leader, or this process's part, may have changed."""
        self._listeners.append(listener)

    def fenced(self) -> None:
        """A write showed that another leads: look again."""
        self._fenced()

    async def changed(self, epoch: int, timeout_s: float) -> Leader | None:
        """See ``Election.changed``."""
        await self._news.until(lambda: self._leader is not None and self._leader.epoch != epoch, timeout_s)
        return self._leader if self._leader is not None and self._leader.epoch != epoch else None

    async def close(self) -> None:
        """See ``Election.close``. The session's end takes the candidate away at once."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._version = None
        self._news.close()
        self.ledger.news.close()
        await self._zookeeper.close()

    def validate(self) -> None:
        """At rest nobody waits; fixtures call it at the end of a test."""
        assert self._news.waiting == 0
        assert self.ledger.news.waiting == 0

    # -- the loop

    async def _run(self) -> None:
        async with Supervisor() as supervisor:
            supervisor.spawn("election-zookeeper", self._keep_up())
            await asyncio.Event().wait()

    async def _keep_up(self) -> None:
        await self._zookeeper.open()
        while True:
            self._wake.clear()
            try:
                await self._round()
                pause_s = REFRESH_S
            except Conflict:
                continue  # somebody was quicker: look again
            except ForebayError as e:
                pause_s = self._link.failed(e, doing="elect")
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _round(self) -> None:
        await self._zookeeper.revive()
        await self._zookeeper.wait_connected()
        if self._prepared_connection != self._zookeeper.connections:
            await self._prepare()
        session = self._zookeeper.session
        names = await self._zookeeper.children(self._paths.candidates, watch=True)
        if not any(name.startswith(candidate_prefix(session)) for name in names):
            await self._stand(session)
            names = await self._zookeeper.children(self._paths.candidates, watch=True)
        node = await self._zookeeper.get(self._paths.leader, watch=True)
        first = first_candidate(names)
        if first is not None and first.startswith(candidate_prefix(session)):
            await self._lead(session, first, node)
        else:
            self._take(None if node is None else parse_leader(node.data, self._paths.leader), None, session)
        await self.ledger.follow()
        self._link.worked()
        await self._protect()

    async def _prepare(self) -> None:
        connection = self._zookeeper.connections
        for path in (self._paths.candidates, self._paths.tables):
            await self._zookeeper.ensure(path)
        self.ledger.fired("")
        self._prepared_connection = connection

    async def _stand(self, session: int) -> None:
        data = encode(Leader(member_id=self._member_id, tcp=self._tcp, epoch=0, session=f"{session:x}"))
        await self._zookeeper.create_next(f"{self._paths.candidates}/{candidate_prefix(session)}", data)

    async def _lead(self, session: int, candidate: str, node: Znode | None) -> None:
        """It is our turn: we lead already, or begin to."""
        previous = None if node is None else parse_leader(node.data, self._paths.leader)
        if node is not None and previous is not None and previous.session == f"{session:x}":
            self._take(previous, node.version, session)
            return
        leader = next_leader(previous, self._member_id, self._tcp, session, least=int(time.time()))
        data, path = encode(leader), self._paths.leader
        await self._zookeeper.commit(
            Check(f"{self._paths.candidates}/{candidate}"),
            Create(path, data) if node is None else Set(path, data, node.version),
        )
        self._take(leader, 0 if node is None else node.version + 1, session)
        LOG.info("leading", epoch=leader.epoch, member=self._member_id)

    def _take(self, leader: Leader | None, version: int | None, session: int) -> None:
        if self._version is not None and version is None:
            LOG.warning("no_longer_leading", member=self._member_id, leader=leader.member_id if leader else None)
        is_news = (leader, version) != (self._leader, self._version)
        self._leader, self._version, self._term_session = leader, version, session
        if is_news:
            self._tell()

    async def _protect(self) -> None:
        """Once a term: nodes of an earlier key ring, or of before there was one, get the access list of today."""
        leader = self._leader
        if not self.is_leading() or leader is None or self._protected_epoch == leader.epoch:
            return
        level = [self._paths.base]
        changed = 0
        while level:
            below: list[str] = []
            for start in range(0, len(level), PROTECTS_AT_ONCE):
                some = level[start : start + PROTECTS_AT_ONCE]
                changed += sum(await asyncio.gather(*(self._zookeeper.protect(path) for path in some)))
                for path in some:
                    below += [f"{path}/{name}" for name in await self._zookeeper.names(path)]
            level = below
        self._protected_epoch = leader.epoch
        if changed:
            LOG.info("znodes_protected", nodes=changed)

    # -- what happens

    def _changed_state(self) -> None:
        self._tell()
        self._wake.set()

    def _fired(self, path: str) -> None:
        self.ledger.fired(path)
        self._wake.set()

    def _fenced(self) -> None:
        self._wake.set()

    def _tell(self) -> None:
        self._news.tell()
        for listener in self._listeners:
            listener()

    def _is_my_old_term(self) -> bool:
        """Whether the leader that is known is this process in a term that it does not hold any more."""
        return self._leader is not None and self._leader.member_id == self._member_id and not self.is_leading()

    def _lease_is_over(self) -> bool:
        """Our own timer: the server says that a session is lost only when it can be reached again."""
        since_s = self._zookeeper.suspended_s
        return since_s is not None and time.monotonic() - since_s >= self.options.ttl_s
