"""What the leading master does where ZooKeeper is the registry: member znodes in, the map znode out.

Every master runs a writer; all but the leader's rest. A write is a transaction that checks the leader's fence and the
map's version, so a leader that was paused changes nothing. Without a leader the last map stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from forebay.contracts import ClusterMap, Member, encode
from forebay.contracts.tickets import KeyRing
from forebay.discovery.access import access
from forebay.discovery.census import Census, Outcome, take
from forebay.discovery.hub import DOWN_S
from forebay.discovery.link import Link
from forebay.discovery.maps import EPOCHS_KEPT, first_map
from forebay.discovery.protocol import RegistryOptions
from forebay.discovery.znodes import Paths, name_of, parse_map, parse_member
from forebay.discovery.zookeeper import Check, Create, Set, ZooKeeper
from forebay.discovery.zookeeper_election import ZooKeeperElection
from forebay.errors import Conflict, ForebayError
from forebay.runtime import logs
from forebay.telemetry import Telemetry

COALESCE_S = 0.05
"""Pause before each look: a hundred workers that start together make a few maps, not a hundred."""

REFRESH_S = 30.0
"""Everything is read again after this time, watches or not."""

READS_AT_ONCE = 32
FENCED_PAUSE_S = 0.5
"""After a write that showed that another leads, until the election has seen it too (it wakes this)."""

LOG = logs.get(__name__)


class ZooKeeperMapWriter:
    """Writes the cluster map. ``run`` it for as long as the master lives.

    Args:
        hosts, chroot: as ``parse_registry_url`` gives them.
        election: says who leads.
        keys: the cluster's ring; who holds a key may change znodes.
        down_s: seconds from down to out.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        chroot: str = "",
        *,
        cluster_id: str,
        telemetry: Telemetry,
        election: ZooKeeperElection,
        keys: KeyRing | None = None,
        down_s: float = DOWN_S,
        options: RegistryOptions | None = None,
    ) -> None:
        self._cluster_id = cluster_id
        self._paths = Paths(chroot, cluster_id)
        self._down_s = down_s
        o = options or RegistryOptions()
        self._wake = asyncio.Event()
        self._election = election
        self._epoch: int | None = None
        election.listen(self._wake.set)
        self._zookeeper = ZooKeeper(
            hosts,
            session_s=o.ttl_s,
            call_timeout_s=o.call_timeout_s,
            on_change=self._wake.set,
            on_watch=self._fired,
            access=access(self._paths, keys),
        )
        self._link = Link(self._zookeeper.address, telemetry, retry_min_s=o.retry_min_s, retry_max_s=o.retry_max_s)
        self._writes = telemetry.metrics.counter(
            "forebay_discovery_map_writes_total", "Cluster maps this master tried to write", ("result",)
        )
        self._prepared_connection = 0
        self._census = Census()
        self._present: dict[str, Member] = {}
        self._bad: set[str] = set()
        self._known: set[str] = set()
        self._dirty: set[str] = set()
        self._refreshed_s = 0.0

    async def run(self) -> None:
        """Keeps the map true until cancelled."""
        await self._zookeeper.open()
        try:
            while True:
                self._wake.clear()
                pause_s = await self._round()
                try:
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                await asyncio.sleep(COALESCE_S)
        finally:
            await self._zookeeper.close()

    async def _round(self) -> float:
        try:
            await self._connect()
            fence = self._fence()
            if fence is None:
                self._link.worked()
                return REFRESH_S
            pause_s = await self._write_next(fence)
        except Conflict as e:
            self._writes.add(1, "lost")
            if e.details.get("part") == 0:
                self._election.fenced()
                return FENCED_PAUSE_S
            return 0.0  # the map has changed: look again
        except ForebayError as e:
            return self._link.failed(e, doing="write the map")
        self._link.worked()
        return pause_s

    async def _connect(self) -> None:
        await self._zookeeper.revive()
        await self._zookeeper.wait_connected()
        if self._prepared_connection == self._zookeeper.connections:
            return
        connection = self._zookeeper.connections
        for path in (self._paths.members, self._paths.withdrawn, self._paths.maps):
            await self._zookeeper.ensure(path)
        # Out of touch, it may have missed that a member came back and went again: it counts anew.
        self._census = Census()
        self._known.clear()
        self._prepared_connection = connection

    def _fence(self) -> Check | None:
        """What a write checks; a term begins with a census anew (it may have missed who came and went)."""
        fence, leader = self._election.fence(), self._election.leader()
        epoch = leader.epoch if fence is not None and leader is not None else None
        if epoch != self._epoch:
            self._epoch = epoch
            self._census = Census()
            self._known.clear()
        return fence

    def _fired(self, path: str) -> None:
        parent, _, name = path.rpartition("/")
        if parent == self._paths.members:
            self._dirty.add(name)
        self._wake.set()

    # -- one look and one write

    async def _write_next(self, fence: Check) -> float:
        await self._read_members()
        marks = await self._zookeeper.children(self._paths.withdrawn, watch=True)
        previous, version = await self._read_map()
        withdrawn = {name_of(mark) for mark in marks}
        outcome = take(self._census, previous, self._present, withdrawn, now_s=time.monotonic(), down_s=self._down_s)
        if outcome.refused:
            LOG.error("members_refused", reason="the cluster is full", members=outcome.refused[:10])
        if outcome.cluster_map is not previous or version is None:
            await self._write(previous, outcome.cluster_map, version, fence)
        self._census = outcome.census
        for mark in marks:
            if name_of(mark) not in self._present:
                await self._zookeeper.delete(f"{self._paths.withdrawn}/{mark}")
        return _pause(outcome)

    async def _read_members(self) -> None:
        """Reads the znodes that are new, or of which a watch said that they changed; all of them now and then."""
        if time.monotonic() - self._refreshed_s >= REFRESH_S:
            self._known.clear()
            self._refreshed_s = time.monotonic()
        names = set(await self._zookeeper.children(self._paths.members, watch=True))
        changed, self._dirty = self._dirty, set()
        self._known -= changed
        todo = sorted(names - self._known)
        for start in range(0, len(todo), READS_AT_ONCE):
            reads = (self._read_member(name) for name in todo[start : start + READS_AT_ONCE])
            for result in await asyncio.gather(*reads, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        self._known &= names
        self._bad &= names
        there = {name_of(name) for name in self._known}
        self._present = {member_id: m for member_id, m in self._present.items() if member_id in there}

    async def _read_member(self, name: str) -> None:
        node = await self._zookeeper.get(f"{self._paths.members}/{name}", watch=True)
        member_id = name_of(name)
        self._present.pop(member_id, None)
        if node is None:
            return
        self._known.add(name)
        try:
            self._present[member_id] = parse_member(node.data, member_id)
            self._bad.discard(name)
        except ForebayError as e:
            if name not in self._bad:
                LOG.error("member_znode_refused", member=member_id, code=e.code, reason=e.message)
            self._bad.add(name)

    async def _read_map(self) -> tuple[ClusterMap, int | None]:
        """The map and its version; ``None`` where there is none yet."""
        node = await self._zookeeper.get(self._paths.map, watch=True)
        if node is None:
            return first_map(self._cluster_id, time.time()), None
        return parse_map(node.data, self._paths), node.version

    async def _write(self, previous: ClusterMap, following: ClusterMap, version: int | None, fence: Check) -> None:
        data, path = encode(following), self._paths.map
        if version is not None and previous.epoch != following.epoch:
            # Before the map moves on, and not in one transaction with it: two maps may not fit into one request.
            await self._zookeeper.create(self._paths.epoch(previous.epoch), encode(previous))
        await self._zookeeper.commit(fence, Create(path, data) if version is None else Set(path, data, version))
        self._writes.add(1, "written")
        if version is not None and previous.epoch != following.epoch:
            await self._prune()
        LOG.info("map_written", epoch=following.epoch, revision=following.revision, members=len(following.members))

    async def _prune(self) -> None:
        # The current map is one of those kept.
        for name in (await self._zookeeper.children(self._paths.maps))[: -(EPOCHS_KEPT - 1)]:
            await self._zookeeper.delete(f"{self._paths.maps}/{name}")


def _pause(outcome: Outcome) -> float:
    return REFRESH_S if outcome.due_s is None else min(REFRESH_S, max(0.0, outcome.due_s))
