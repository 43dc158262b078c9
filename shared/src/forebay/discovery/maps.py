"""Cluster maps: how one follows from the one before, and where a process keeps the last good one.

``next_map`` is the only place that raises epoch and revision, for the embedded registry and for ZooKeeper alike.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from forebay.contracts import ClusterMap, Member
from forebay.contracts.members import ownership
from forebay.errors import Overloaded
from forebay.telemetry import Telemetry

EPOCHS_KEPT = 8
"""Maps kept, one an epoch: a home that lacks a block asks who was home under the previous map."""

WAITERS_MAX = 10_000
"""Long polls and local waits on one map at a time."""


def first_map(cluster_id: str, wall_s: float) -> ClusterMap:
    """The empty map of a registry that remembers nothing.

    Epoch and revision start at the clock (seconds since 1970), so neither falls even where the registry's state was
    lost: a cluster would have to change more than once a second over its whole life to overtake its clock.
    """
    return ClusterMap(cluster_id=cluster_id, epoch=int(wall_s), revision=int(wall_s), members=())


def next_map(previous: ClusterMap, members: Sequence[Member]) -> ClusterMap:
    """The map of ``members`` that follows ``previous``; ``previous`` itself where nothing changed.

    The revision grows with any change, the epoch only with one that may move ownership.
    """
    ordered = tuple(sorted(members, key=lambda m: m.member_id))
    if ordered == previous.members:
        return previous
    moved = ownership(ordered) != ownership(previous.members)
    return ClusterMap(
        cluster_id=previous.cluster_id,
        epoch=previous.epoch + moved,
        revision=previous.revision + 1,
        members=ordered,
    )


class MapCell:
    """The last good map of one process, and those who wait for the next. For one event loop.

    Invariants: (1) revision and epoch never fall; (2) ``history`` holds one map an epoch, newest first, at most
    ``EPOCHS_KEPT``, and begins with the current one's epoch; (3) at rest nobody waits.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, waiters_max: int = WAITERS_MAX) -> None:
        self._clock = clock
        self._waiters_max = waiters_max
        self._current: ClusterMap | None = None
        self._confirmed_s = clock()
        self._news = asyncio.Event()
        self._waiting = 0
        self._is_closed = False
        self._history: deque[ClusterMap] = deque(maxlen=EPOCHS_KEPT)

    @property
    def current(self) -> ClusterMap | None:
        """The last good map, however old."""
        return self._current

    @property
    def revision(self) -> int:
        """Of the current map; -1 before the first."""
        return self._current.revision if self._current else -1

    @property
    def waiting(self) -> int:
        """How many wait for the next map now."""
        return self._waiting

    def history(self) -> tuple[ClusterMap, ...]:
        """The last maps this process saw, one an epoch, newest first."""
        return tuple(reversed(self._history))

    def offer(self, cluster_map: ClusterMap) -> bool:
        """Takes the map if it is newer, and wakes those who wait. An older one (a registry restored from a backup, a
        reply overtaken by another) is left."""
        self.confirm()
        now = self._current
        if now is not None and (cluster_map.revision <= now.revision or cluster_map.epoch < now.epoch):
            return False
        if now is not None and now.epoch == cluster_map.epoch:
            self._history.pop()
        self._history.append(cluster_map)
        self._current = cluster_map
        self._news.set()
        self._news = asyncio.Event()
        return True

    def confirm(self) -> None:
        """The registry was heard: the current map is as good as new."""
        self._confirmed_s = self._clock()

    def age_s(self) -> float:
        """Seconds since the registry was last heard."""
        return max(0.0, self._clock() - self._confirmed_s)

    async def changed(self, after_revision: int, timeout_s: float) -> ClusterMap | None:
        """The first map newer than ``after_revision``, or ``None`` after ``timeout_s``.

        Raises:
            Overloaded: ``waiters_max`` wait already.
        """
        if self._waiting >= self._waiters_max:
            raise Overloaded("too many wait for the cluster map; try again", limit=self._waiters_max)
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                while self._current is None or self._current.revision <= after_revision:
                    if self._is_closed:
                        return None
                    await self._news.wait()
                return self._current
        except TimeoutError:
            return None
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Nobody waits any more: those who do go now, so that a server can drain."""
        self._is_closed = True
        self._news.set()

    def measure(self, telemetry: Telemetry) -> None:
        """Shows this cell in the process's metrics (a process has one; of several, the last counts)."""
        metrics = telemetry.metrics
        metrics.observed("forebay_discovery_map_epoch", "Epoch of the map in use", lambda: self._now("epoch"))
        metrics.observed("forebay_discovery_map_revision", "Revision of the map in use", lambda: self._now("revision"))
        metrics.observed("forebay_discovery_map_age_seconds", "Since the registry was last heard", self.age_s)

    def _now(self, field: str) -> float:
        return float(getattr(self._current, field)) if self._current else 0.0

    def validate(self) -> None:
        """Checks the invariants; fixtures call it at the end of a test."""
        epochs = [m.epoch for m in self.history()]
        assert epochs == sorted(set(epochs), reverse=True), epochs
        assert len(epochs) <= EPOCHS_KEPT, epochs
        assert (self._current is None) == (not epochs), epochs
        assert self._current is None or epochs[0] == self._current.epoch, epochs
        assert self._waiting == 0, self._waiting
