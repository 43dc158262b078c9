"""``Registry`` over ZooKeeper: this process's ephemeral znode, and the map znode that the masters write.

One loop compares what should be with what is there and does the difference; everything that happens (a watch, a state
of the connection, a changed announcement, time) merely wakes it. So a lost session, a create that failed and yet
worked, or a watch that never came need no cases of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Sequence

from forebay.contracts import ClusterMap, Member, encode
from forebay.contracts.tickets import KeyRing
from forebay.discovery.access import access
from forebay.discovery.announcing import Announcement
from forebay.discovery.leases import refusal
from forebay.discovery.link import Link
from forebay.discovery.maps import MapCell
from forebay.discovery.protocol import Election, RegistryOptions
from forebay.discovery.znodes import Found, Paths, Step, holder_address, member_data, next_step, parse_map
from forebay.discovery.zookeeper import Create, Delete, Znode, ZooKeeper
from forebay.discovery.zookeeper_election import ZooKeeperElection
from forebay.errors import CallerError, Conflict, DeadlineExceeded, ForebayError, PeerUnavailable
from forebay.runtime import Deadline, Supervisor, logs
from forebay.telemetry import Telemetry

REFRESH_S = 30.0
"""Everything is read again after this time, watches or not."""

OWN_SESSIONS_KEPT = 64
ATTEMPTS_MAX = 5
"""Lost races for one's own znode in one round, before the next."""

LOG = logs.get(__name__)


class ZooKeeperRegistry:
    """See ``protocol.Registry`` for what it promises."""

    def __init__(
        self,
        hosts: Sequence[str],
        chroot: str,
        *,
        cluster_id: str,
        telemetry: Telemetry,
        keys: KeyRing | None = None,
        options: RegistryOptions | None = None,
    ) -> None:
        self._options = o = options or RegistryOptions()
        self._hosts, self._chroot, self._keys = tuple(hosts), chroot, keys
        self._telemetry = telemetry
        self._cluster_id = cluster_id
        self._paths = Paths(chroot, cluster_id)
        self._cell = MapCell()
        self._cell.measure(telemetry)
        self._announcement = Announcement(serving_period_s=o.serving_period_s, conflict_wait_s=o.conflict_wait_s)
        # A change, and a watch (which says no more than that), wake the loop.
        self._wake = self._announcement.changed
        self._zookeeper = ZooKeeper(
            hosts,
            session_s=o.ttl_s,
            call_timeout_s=o.call_timeout_s,
            on_change=self._wake.set,
            on_watch=self._fired,
            access=access(self._paths, keys),
        )
        self._link = Link(self._zookeeper.address, telemetry, retry_min_s=o.retry_min_s, retry_max_s=o.retry_max_s)
        self._own_sessions: deque[int] = deque(maxlen=OWN_SESSIONS_KEPT)
        self._succeeds: tuple[str, ...] = ()
        self._prepared_connection = 0
        self._roomy_connection = 0
        self._map_read_s: float | None = None
        self._was_reached = asyncio.Event()
        self._failure: ForebayError | None = None
        self._speaking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self, deadline: Deadline) -> None:
        """See ``Registry.start``."""
        self._task = asyncio.create_task(self._run(), name="zookeeper-registry")
        try:
            async with deadline.timeout():
                await self._was_reached.wait()
        except DeadlineExceeded as e:
            address = self._zookeeper.address
            why = self._failure.message if self._failure else "no answer yet"
            raise PeerUnavailable(f"the ZooKeeper registry at {address} cannot be used: {why}", address=address) from e

    async def announce(self, member: Member, *, succeeds: Collection[str] = ()) -> None:
        """See ``Registry.announce``."""
        self._succeeds = tuple(succeeds)
        member_data(member)
        if self._announcement.want(member):
            await self._announcement.settled(self._options.announce_timeout_s, self._zookeeper.address)

    async def withdraw(self) -> None:
        """See ``Registry.withdraw``."""
        member = self._announcement.drop()
        if member is None:
            return
        async with self._speaking:
            try:
                await self._leave(member)
            except ForebayError as e:
                LOG.warning("withdrawal_failed", member=member.member_id, code=e.code, reason=e.message)

    def is_announced(self) -> bool:
        """See ``Registry.is_announced``."""
        return self._announcement.is_published and not self._lease_is_over()

    def current(self) -> ClusterMap | None:
        """See ``Registry.current``."""
        return self._cell.current

    def history(self) -> tuple[ClusterMap, ...]:
        """See ``Registry.history``."""
        return self._cell.history()

    def age_s(self) -> float:
        """See ``Registry.age_s``."""
        return self._cell.age_s()

    async def changed(self, after_revision: int, timeout_s: float) -> ClusterMap | None:
        """See ``Registry.changed``."""
        return await self._cell.changed(after_revision, timeout_s)

    def elect(self, candidate: Member, *, tables: tuple[str, ...] = ()) -> Election:
        """See ``Registry.elect``. It has a session of its own: making room for another leader ends it."""
        election = ZooKeeperElection(
            self._hosts,
            self._chroot,
            cluster_id=self._cluster_id,
            candidate=candidate,
            telemetry=self._telemetry,
            keys=self._keys,
            tables=tables,
            options=self._options,
        )
        election.start()
        return election

    async def close(self) -> None:
        """See ``Registry.close``. The session's end takes the ephemeral znode away at once."""
        self._announcement.drop()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._zookeeper.close()

    def validate(self) -> None:
        """Checks the invariants of its parts; fixtures call it at the end of a test."""
        self._cell.validate()
        self._announcement.validate()

    # -- the loop

    async def _run(self) -> None:
        async with Supervisor() as supervisor:
            supervisor.spawn("registry-zookeeper", self._keep_up())
            await asyncio.Event().wait()

    async def _keep_up(self) -> None:
        await self._zookeeper.open()
        while True:
            self._wake.clear()
            try:
                pause_s = await self._round()
            except ForebayError as e:
                self._failure = e
                pause_s = self._link.failed(e, doing="follow")
            self._give_up_lease()
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _round(self) -> float:
        """Once through everything; seconds until it must be done again."""
        await self._zookeeper.revive()
        await self._zookeeper.wait_connected()
        if self._prepared_connection != self._zookeeper.connections:
            await self._prepare()
        async with self._speaking:
            pause_s = await self._speak()
        if self._map_read_s is None or time.monotonic() - self._map_read_s >= self._options.refresh_s:
            await self._read_map()
        self._link.worked()
        self._cell.confirm()
        self._was_reached.set()
        return min(pause_s, self._options.refresh_s)

    async def _prepare(self) -> None:
        """A new connection, maybe a new session: what is read again, what is gone."""
        connection, session = self._zookeeper.connections, self._zookeeper.session
        if session not in self._own_sessions:
            self._announcement.lost()
            self._own_sessions.append(session)
        self._map_read_s = None
        self._prepared_connection = connection

    def _fired(self, path: str) -> None:
        if path in (self._paths.map, ""):
            self._map_read_s = None
        self._wake.set()

    def _lease_is_over(self) -> bool:
        """Our own timer: the server says that a session is lost only when it can be reached again."""
        since_s = self._zookeeper.suspended_s
        return since_s is not None and time.monotonic() - since_s >= self._options.ttl_s

    def _give_up_lease(self) -> None:
        if self._announcement.is_published and self._lease_is_over():
            LOG.warning("registry_session_taken_for_lost", address=self._zookeeper.address, after_s=self._options.ttl_s)
            self._announcement.lost()

    # -- the map

    async def _read_map(self) -> None:
        self._map_read_s = time.monotonic()  # before the read: a watch that fires during it counts
        try:
            await self._take_map()
        except BaseException:
            self._map_read_s = None
            raise

    async def _take_map(self) -> None:
        node = await self._zookeeper.get(self._paths.map, watch=True)
        if node is None:
            return  # no master has written one yet
        self._cell.offer(parse_map(node.data, self._paths))

    # -- the announcement

    async def _speak(self) -> float:
        """One round of the announcement, if anything is wanted; seconds until the next."""
        for _ in range(ATTEMPTS_MAX):
            now_s = time.monotonic()
            member = self._announcement.due(now_s)
            if member is None:
                return REFRESH_S
            try:
                await self._put(member)
            except Conflict as e:
                if "reason" not in e.details or e.details["reason"] not in ("held", "superseded"):
                    continue  # the znode changed between look and write: look again
                return self._refused(e, member, now_s)
            except CallerError as e:
                return self._refused(e, member, now_s)
            self._announcement.published(member, now_s)
            return min(REFRESH_S, self._options.serving_period_s)
        return self._options.retry_min_s

    async def _put(self, member: Member) -> None:
        path, data = self._paths.member(member.member_id), encode(member)
        await self._make_room()
        node = await self._zookeeper.get(path, watch=True)
        step = next_step(
            Found(node.data, node.owner) if node else None,
            member,
            session=self._zookeeper.session,
            own_sessions=self._own_sessions,
            was_member=self._announcement.was_member,
            succeeds=self._succeeds,
        )
        await self._do(step, member, path, data, node)

    async def _make_room(self) -> None:
        """Only who announces makes nodes: one that merely follows may hold no key to protect them with."""
        connection = self._zookeeper.connections
        if self._roomy_connection != connection:
            for path in (self._paths.members, self._paths.withdrawn, self._paths.maps):
                await self._zookeeper.ensure(path)
            self._roomy_connection = connection

    async def _do(self, step: Step, member: Member, path: str, data: bytes, node: Znode | None) -> None:
        if step in ("create", "replace"):
            await self._zookeeper.delete(self._paths.mark(member.member_id))
        if step == "create":
            await self._zookeeper.commit(Create(path, data, ephemeral=True))
        elif node is None or step == "keep":
            return
        elif step == "update":
            await self._zookeeper.set(path, data, node.version)
        elif step == "replace":
            await self._zookeeper.commit(Delete(path, node.version), Create(path, data, ephemeral=True))
        else:
            raise refusal(step, member.member_id, holder_address(node.data, member.member_id) or "an unknown address")

    def _refused(self, error: CallerError, member: Member, now_s: float) -> float:
        if self._announcement.refused(error, now_s):
            LOG.error("announcement_refused", member=member.member_id, code=error.code, reason=error.message)
            return REFRESH_S
        LOG.warning("announcement_waits", member=member.member_id, code=error.code, reason=error.message)
        return min(1.0, self._options.ttl_s / 3)

    async def _leave(self, member: Member) -> None:
        path = self._paths.member(member.member_id)
        node = await self._zookeeper.get(path)
        if node is None or node.owner != self._zookeeper.session:
            return
        await self._zookeeper.create(self._paths.mark(member.member_id), b"")
        await self._zookeeper.delete(path, node.version)
