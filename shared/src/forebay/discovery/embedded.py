"""The embedded registry's client half: a heartbeat that keeps this member known, a long poll that keeps its map fresh.

Both run until ``close`` and treat every error alike: keep the last good map, say so once, try again. So a master that
restarts, or is away for an hour, costs its cluster nothing but news.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection

from forebay.contracts import AnnounceRequest, ClusterMap, Member, WithdrawRequest
from forebay.discovery.announcing import Announcement
from forebay.discovery.doors import Door
from forebay.discovery.link import Link
from forebay.discovery.maps import MapCell
from forebay.discovery.protocol import Election, RegistryOptions
from forebay.discovery.sole import SoleElection
from forebay.discovery.terms import Leader
from forebay.errors import CallerError, DeadlineExceeded, ForebayError, InvalidRequest, PeerMisbehaved, PeerUnavailable
from forebay.runtime import Deadline, Supervisor, logs
from forebay.telemetry import Telemetry

POLL_PAUSE_S = 0.05
"""Shortest time between two polls: a registry that answers at once with nothing new must not keep us spinning."""

LOG = logs.get(__name__)


class EmbeddedRegistry:
    """``Registry`` over the hub of a master. See ``protocol.Registry`` for what it promises."""

    def __init__(
        self, door: Door, *, cluster_id: str, telemetry: Telemetry, options: RegistryOptions | None = None
    ) -> None:
        self._door = door
        self._cluster_id = cluster_id
        self._options = o = options or RegistryOptions()
        self._session = uuid.uuid4().hex
        self._cell = MapCell()
        self._cell.measure(telemetry)
        self._link = Link(door.address, telemetry, retry_min_s=o.retry_min_s, retry_max_s=o.retry_max_s)
        self._announcement = Announcement(serving_period_s=o.serving_period_s, conflict_wait_s=o.conflict_wait_s)
        self._succeeds: tuple[str, ...] = ()
        self._renewed_s = 0.0
        # A renewal under way must not overtake a withdrawal: one at a time.
        self._speaking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._foreign: PeerMisbehaved | None = None

    async def start(self, deadline: Deadline) -> None:
        """See ``Registry.start``."""
        self._task = asyncio.create_task(self._run(), name="embedded-registry")
        try:
            async with deadline.timeout():
                while self._cell.current is None and self._foreign is None:
                    await self._cell.changed(-1, 0.1)
        except DeadlineExceeded as e:
            raise PeerUnavailable(f"no registry answers at {self._door.address}", address=self._door.address) from e
        if self._foreign is not None:
            raise self._foreign

    async def announce(self, member: Member, *, succeeds: Collection[str] = ()) -> None:
        """See ``Registry.announce``."""
        self._succeeds = tuple(succeeds)
        if self._announcement.want(member):
            await self._announcement.settled(self._options.announce_timeout_s, self._door.address)

    async def withdraw(self) -> None:
        """See ``Registry.withdraw``."""
        await self._leave(keep_place=False)

    def is_announced(self) -> bool:
        """See ``Registry.is_announced``."""
        return self._announcement.is_published and time.monotonic() - self._renewed_s < self._options.ttl_s

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
        """See ``Registry.elect``: the process that serves the registry leads, from now on."""
        if not self._door.is_local:
            raise InvalidRequest("an embedded registry is led by the master that serves it", address=self._door.address)
        return SoleElection(Leader(member_id=candidate.member_id, tcp=candidate.tcp, epoch=int(time.time())))

    async def close(self) -> None:
        """See ``Registry.close``."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._leave(keep_place=True)

    def validate(self) -> None:
        """Checks the invariants of its parts; fixtures call it at the end of a test."""
        self._cell.validate()
        self._announcement.validate()

    async def _run(self) -> None:
        async with Supervisor() as supervisor:
            supervisor.spawn("registry-announce", self._keep_announced())
            supervisor.spawn("registry-watch", self._watch())
            await asyncio.Event().wait()

    # -- the map

    async def _watch(self) -> None:
        after: int | None = None
        while True:
            try:
                cluster_map = await self._poll(after)
            except ForebayError as e:
                after = None  # the first answer after an outage comes at once
                await asyncio.sleep(self._link.failed(e, doing="watch"))
                continue
            self._link.worked()
            is_news = self._cell.offer(cluster_map)
            after = self._cell.revision
            if not is_news:
                await asyncio.sleep(POLL_PAUSE_S)

    async def _poll(self, after: int | None) -> ClusterMap:
        wait_s = self._options.poll_s
        deadline = Deadline.after(self._options.call_timeout_s + (0 if after is None else wait_s))
        cluster_map = await self._door.cluster(after, wait_s, deadline)
        self._foreign = None
        if cluster_map.cluster_id != self._cluster_id:
            self._foreign = PeerMisbehaved(
                f"the registry at {self._door.address} is of cluster {cluster_map.cluster_id!r}, "
                f"this member of {self._cluster_id!r}",
                theirs=cluster_map.cluster_id,
                ours=self._cluster_id,
            )
            raise self._foreign
        return cluster_map

    # -- the announcement

    async def _keep_announced(self) -> None:
        while True:
            self._announcement.changed.clear()
            pause_s = await self._speak()
            try:
                async with asyncio.timeout(pause_s):
                    await self._announcement.changed.wait()
            except TimeoutError:
                pass

    async def _speak(self) -> float:
        """One announcement or renewal, if anything is wanted; seconds until the next."""
        async with self._speaking:
            now_s = time.monotonic()
            member = self._announcement.due(now_s)
            if member is None:
                return self._options.ttl_s
            request = AnnounceRequest(
                member=member, ttl_s=self._options.ttl_s, session=self._session, succeeds=self._succeeds
            )
            try:
                await self._door.announce(request, Deadline.after(self._options.call_timeout_s))
            except CallerError as e:
                return self._refused(e, member, now_s)
            except ForebayError as e:
                return self._link.failed(e, doing="announce")
            self._link.worked()
            self._renewed_s = now_s
            self._announcement.published(member, now_s)
        return self._options.ttl_s / 3

    def _refused(self, error: CallerError, member: Member, now_s: float) -> float:
        if self._announcement.refused(error, now_s):
            LOG.error("announcement_refused", member=member.member_id, code=error.code, reason=error.message)
            return self._options.ttl_s
        LOG.warning("announcement_waits", member=member.member_id, code=error.code, reason=error.message)
        return min(1.0, self._options.ttl_s / 3)

    async def _leave(self, *, keep_place: bool) -> None:
        member = self._announcement.drop()
        if member is None:
            return
        request = WithdrawRequest(member_id=member.member_id, session=self._session, keep_place=keep_place)
        async with self._speaking:
            try:
                await self._door.withdraw(request, Deadline.after(self._options.call_timeout_s))
            except ForebayError as e:
                LOG.warning("withdrawal_failed", member=member.member_id, code=e.code, reason=e.message)
