"""The embedded registry's server half: leases in, cluster maps out, each map stored before anyone sees it.

A map is published only after ``save`` has returned, so whatever a client saw survives a restart and neither epoch nor
revision falls. The decisions are in ``leases`` (who is there) and ``maps`` (what follows); this is the shell.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from forebay.contracts import AnnounceReply, AnnounceRequest, ClusterMap, WithdrawReply, WithdrawRequest
from forebay.discovery.leases import LeaseTable
from forebay.discovery.maps import MapCell, first_map, next_map
from forebay.errors import ConfigError, ForebayError, NotReady
from forebay.runtime import logs

DOWN_S = 60.0
"""How long a member that vanished keeps its ownership: a restart moves nothing."""

TICK_S = 0.5
"""How often leases are looked at; a lease may end that much later than it says."""

LOG = logs.get(__name__)


async def _nothing_stored() -> ClusterMap | None:
    return None


async def _not_stored(_map: ClusterMap) -> None:
    return None


class EmbeddedHub:
    """The registry that a master serves. For one event loop; ``open`` first, then keep ``run`` running.

    Args:
        load, save: where the last map lives. ``save`` returns when the map is durable; while it fails with an error
            of ours the last map stands. Without them the epoch starts at the clock with each process.
        down_s: seconds from down to out.
        clock: monotonic seconds; ``announce``, ``withdraw`` and ``tick`` take times of this clock.
    """

    def __init__(
        self,
        cluster_id: str,
        *,
        load: Callable[[], Awaitable[ClusterMap | None]] = _nothing_stored,
        save: Callable[[ClusterMap], Awaitable[None]] = _not_stored,
        down_s: float = DOWN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cluster_id = cluster_id
        self.clock = clock
        self.maps = MapCell(clock=clock)
        self._load, self._save = load, save
        self._leases = LeaseTable(down_s=down_s)
        self._publishing = asyncio.Lock()
        self._ticked_s: float | None = None

    async def open(self) -> None:
        """Takes up the stored map; its members have a lease's time to announce themselves again.

        Raises:
            ConfigError: the stored map is another cluster's.
        """
        stored = await self._load()
        if stored is not None and stored.cluster_id != self.cluster_id:
            raise ConfigError("cluster_id", f"the state here is of cluster {stored.cluster_id!r}")
        self._leases.restore(stored.members if stored else (), self.clock())
        self.maps.offer(stored or first_map(self.cluster_id, time.time()))

    def current(self) -> ClusterMap:
        """The published map.

        Raises:
            NotReady: ``open`` was not called.
        """
        cluster_map = self.maps.current
        if cluster_map is None:
            raise NotReady("the registry is not open yet")
        return cluster_map

    async def announce(self, request: AnnounceRequest, now_s: float) -> AnnounceReply:
        """Takes an announcement; when it returns, the member is in the published map.

        Raises:
            Conflict, InvalidRequest, UnsupportedWireVersion, Overloaded: see ``LeaseTable.announce``.
        """
        if self._leases.announce(request.member, request.session, request.ttl_s, now_s, request.succeeds):
            await self._publish()
        return AnnounceReply(cluster_id=self.cluster_id, revision=self.current().revision)

    async def withdraw(self, request: WithdrawRequest, now_s: float) -> WithdrawReply:
        """Takes a member out (or down, with ``keep_place``) if its session holds the id."""
        was_there = self._leases.withdraw(request.member_id, request.session, now_s, keep_place=request.keep_place)
        await self._publish()
        return WithdrawReply(was_there=was_there)

    async def tick(self, now_s: float) -> None:
        """Time passes: leases end, down becomes out. A gap between ticks (a stopped process, a suspended machine) is
        forgiven: nobody could be heard in it."""
        gap_s = 0.0 if self._ticked_s is None else now_s - self._ticked_s - TICK_S
        self._ticked_s = now_s
        if gap_s > TICK_S:
            self._leases.forgive(gap_s, now_s)
        self._leases.expire(now_s)
        await self._publish()

    async def run(self) -> None:
        """Ticks until cancelled. What fails to be stored is tried again at the next tick."""
        while True:
            try:
                await self.tick(self.clock())
            except ForebayError as e:
                LOG.error("map_not_stored", code=e.code, reason=e.message)
            self.maps.confirm()
            await asyncio.sleep(TICK_S)

    def close(self) -> None:
        """Ends all long polls; to be called before the server that has the routes drains."""
        self.maps.close()

    def validate(self) -> None:
        """Checks the invariants of its parts; fixtures call it at the end of a test."""
        self._leases.validate()
        self.maps.validate()

    async def _publish(self) -> None:
        async with self._publishing:
            previous = self.current()
            following = next_map(previous, self._leases.members())
            if following is previous:
                return
            await self._save(following)
            self.maps.offer(following)
