"""Buffers of readahead, shared by all readers of a client within one byte budget.

A segment is fetched once, whoever wants it (single-flight by block and place), and freed when nobody wants it any
more. When the budget is used up, segments that nobody touched for a while make room; where there are none, the
reader does without and reads directly.

Invariants (``validate``): (1) ``held_bytes`` is the sum of the buffers handed out, never above the budget; (2) a
buffer goes back to the pool only after its fetch has ended, so a cancelled fetch can't write into another's bytes;
(3) with no reader open nothing is held but what is lent; (4) buffers handed out and buffers kept for the next
segments together are never above the budget.
"""

from __future__ import annotations

import asyncio
import mmap
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from forebay.client.tasks import Tasks

IDLE_S = 1.0
"""A finished segment that nobody touched for so long makes room for another."""

FREE_BUFFERS_MAX = 16
"""Full-size buffers kept for the next segments. A fresh one of 4 MiB costs 3 to 4 ms of page faults on a virtual
machine (measured), a kept one nothing. Huge pages were tried and left: the first use of one cost 15 ms there."""

POOL_IDLE_S = 5.0
"""Kept buffers that nobody took for so long are given back to the kernel."""

Buffer = bytearray | mmap.mmap


def full_buffer(size: int) -> Buffer:
    """Memory of its own: unlike a bytearray's it is not written before it is used, and the kernel gets it back."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


@dataclass(frozen=True)
class SegmentKey:
    """Content, not place: block ids name immutable bytes, so readers of one version share."""

    block_id: str
    offset: int


class Segment:
    """``view`` holds the bytes once ``ready``; ``holders`` counts the readers that want it, ``lent`` those of them that
    gave parts of it to a program: it makes room for nobody meanwhile."""

    __slots__ = ("_buffer", "ended", "error", "holders", "key", "lent", "ready", "task", "used_s", "view")

    def __init__(self, key: SegmentKey, buffer: Buffer, length: int, now_s: float) -> None:
        self.key = key
        self._buffer = buffer
        self.view = memoryview(buffer)[:length]
        self.holders = self.lent = 0
        self.ready = False
        self.ended = False
        self.error: BaseException | None = None
        self.used_s = now_s
        self.task: asyncio.Task[None] | None = None

    @property
    def cost(self) -> int:
        """Bytes of the budget."""
        return len(self._buffer)

    def free(self) -> Buffer:
        """The buffer, taken back. Views given to others stay valid Python objects, with undefined bytes."""
        self.view.release()
        return self._buffer


Fetch = Callable[[memoryview], Coroutine[Any, Any, None]]


class SegmentTable:
    """All segments of one client."""

    def __init__(self, *, budget_bytes: int, segment_bytes: int, tasks: Tasks, clock: Callable[[], float]) -> None:
        self._budget = budget_bytes
        self._full = segment_bytes
        self._tasks = tasks
        self._clock = clock
        self._segments: OrderedDict[SegmentKey, Segment] = OrderedDict()
        self._pool: list[Buffer] = []
        self._pooled_s = 0.0
        self._sharers: set[object] = set()
        self.held_bytes = 0

    def share_bytes(self, reader: object) -> int:
        """What one reader may have ahead, so that all who read in sequence fit into the budget: an equal part for each,
        whole segments, at least one. ``reader`` is one of them from now on, until ``leave``."""
        self._sharers.add(reader)
        return max(self._full, self._budget // len(self._sharers) // self._full * self._full)

    def leave(self, reader: object) -> None:
        """The reader reads nothing ahead any more."""
        self._sharers.discard(reader)

    @property
    def readers(self) -> int:
        """Readers that share the budget."""
        return len(self._sharers)

    def get(self, key: SegmentKey) -> Segment | None:
        """The segment if it is held (ready or on its way)."""
        segment = self._segments.get(key)
        if segment is not None:
            segment.used_s = self._clock()
            self._segments.move_to_end(key)
        return segment

    def want(self, key: SegmentKey, length: int, fetch: Fetch) -> Segment | None:
        """Hold the segment, fetching it if it is not there; ``None`` when the budget is used up."""
        segment = self.get(key)
        if segment is None:
            segment = self._begin(key, length, fetch)
        if segment is not None:
            segment.holders += 1
        return segment

    def release(self, segment: Segment) -> None:
        """One holder less; the last one frees it (and stops its fetch)."""
        segment.holders -= 1
        if segment.holders == 0 and self._segments.get(segment.key) is segment:
            self._drop(segment)

    def _begin(self, key: SegmentKey, length: int, fetch: Fetch) -> Segment | None:
        size = self._full if length * 2 > self._full else length
        if self.held_bytes + size > self._budget and not self._make_room(size):
            return None
        buffer = self._buffer(size)
        segment = Segment(key, buffer, length, self._clock())
        self.held_bytes += size
        self._segments[key] = segment
        self._trim()
        segment.task = self._tasks.spawn("segment", fetch(segment.view))
        segment.task.add_done_callback(lambda task: self._ended(segment, task))
        return segment

    def _buffer(self, size: int) -> Buffer:
        if size != self._full:
            return bytearray(size)
        return self._pool.pop() if self._pool else full_buffer(size)

    def _ended(self, segment: Segment, task: asyncio.Task[None]) -> None:
        """The fetch is over, one way or another: from here on nobody writes into the buffer."""
        segment.ended = True
        segment.error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if segment.error is not None and self._segments.get(segment.key) is segment:
            del self._segments[segment.key]
        segment.ready = self._segments.get(segment.key) is segment
        if not segment.ready:
            self._reclaim(segment)

    def _drop(self, segment: Segment) -> None:
        del self._segments[segment.key]
        if segment.ended:
            self._reclaim(segment)
        elif segment.task is not None:
            segment.task.cancel()

    def _reclaim(self, segment: Segment) -> None:
        self.held_bytes -= segment.cost
        segment.ready = False
        buffer = segment.free()
        if len(buffer) == self._full and len(self._pool) < FREE_BUFFERS_MAX:
            self._pool.append(buffer)
            self._pooled_s = self._clock()
            self._trim()

    @property
    def kept_bytes(self) -> int:
        """Buffers that nobody uses, kept for the next segments."""
        return len(self._pool) * self._full

    def _trim(self) -> None:
        while self._pool and self.held_bytes + self.kept_bytes > self._budget:
            self._pool.pop()

    def sweep(self) -> None:
        """Gives kept buffers back that are of no use any more. The owner's to call now and then."""
        if self._clock() - self._pooled_s >= POOL_IDLE_S:
            self._pool.clear()

    def _make_room(self, size: int) -> bool:
        """Drop finished segments that are idle, longest first, until ``size`` fits."""
        now = self._clock()
        for segment in tuple(self._segments.values()):
            if self.held_bytes + size <= self._budget or now - segment.used_s < IDLE_S:
                break
            if segment.ready and not segment.lent:
                self._drop(segment)
        return self.held_bytes + size <= self._budget

    def validate(self) -> None:
        """Checks the invariants at rest (no fetch running)."""
        assert self.held_bytes == sum(s.cost for s in self._segments.values())
        assert self.held_bytes + self.kept_bytes <= self._budget
