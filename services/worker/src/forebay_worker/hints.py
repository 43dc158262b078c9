"""What will be read soon, by the word of those who read: which blocks to fetch now, to give up, to keep. Pure.

A *stream* is the order in which one reader (a rank in an epoch) will read blocks of this worker. What it has read so
far shows where it is; the *window* is what follows, up to its share of a byte budget. Blocks of the window that are
not here are fetched, just in time. Blocks that are here take of the budget too, so that the windows of all workers
reach equally far: one that lacks little does not fetch what is read much later while the reader waits for one that
lacks much. A block is *awaited* while a stream that was heard of lately has it before it, however far: it is not
evicted for a block that is fetched ahead, or it would have to be fetched again in the same epoch. What all streams
have *behind* them makes room. What a stream has jumped over is not fetched any more.

Invariants (``validate``): (1) a block is known to a stream at one place; (2) ``_where`` names exactly the streams'
blocks; (3) no more than ``STREAMS_MAX`` streams of ``BLOCKS_MAX`` blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from forebay.errors import TooLarge

STREAMS_MAX = 256
BLOCKS_MAX = 200_000
"""Of one stream."""

SLACK = 4
"""Blocks that may be overtaken by later ones before they count as jumped over: loaders read several at once."""

UNDER_WAY = 1
"""Blocks behind the one that was read furthest that somebody may still be reading: they are not evicted."""

SILENT_S = 600.0
"""A stream that was not heard of for so long is forgotten."""

RESTING_S = 120.0
"""For a stream that was not heard of for so long nothing is fetched or kept, until it goes on."""

WINDOW_BLOCKS = 512
"""And no more blocks than these after the one that was read furthest: it is looked at whenever one is read."""

BEHIND_MAX = 2048
"""Blocks that are looked at for those that all streams have behind them."""


@dataclass(frozen=True)
class HintedBlock:
    """One block of an order, with what it takes of the tiers."""

    block_id: str
    size: int


@dataclass
class _Stream:
    """``at`` is one past the furthest block that was read."""

    epoch: int
    heard_s: float
    blocks: list[HintedBlock] = field(default_factory=list)
    place: dict[str, int] = field(default_factory=dict)
    read: set[int] = field(default_factory=set)
    at: int = 0

    def window(self, budget_bytes: int) -> Iterator[HintedBlock]:
        """What is read next, here or not, as far as it fits; the first block always does."""
        left, is_first = budget_bytes, True
        for number in range(max(0, self.at - SLACK), min(len(self.blocks), self.at + WINDOW_BLOCKS)):
            if number in self.read:
                continue
            block = self.blocks[number]
            left -= block.size
            if left < 0 and not is_first:
                return
            is_first = False
            yield block

    def awaits(self, block_id: str) -> bool:
        """Whether the block is before the reader, or it may still be reading it."""
        return self.place[block_id] >= self.at - 1 - UNDER_WAY


class Hints:
    """All streams of one worker. ``budget_bytes`` is what all windows have together; ``is_here`` says whether a block
    has room in a tier."""

    def __init__(self, budget_bytes: int, is_here: Callable[[str], bool] = lambda _: False) -> None:
        self.budget_bytes = budget_bytes
        self.is_here = is_here
        self._now_s = 0.0
        self._streams: dict[str, _Stream] = {}
        self._where: dict[str, set[str]] = {}
        self._soon: set[str] | None = None
        self._used: dict[str, None] = {}
        self._past: set[str] = set()

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, block_id: object) -> bool:
        """Whether the block lies in a window: it is wanted here."""
        return block_id in self.soon()

    def take(self, stream: str, epoch: int, blocks: Iterable[HintedBlock], now_s: float, *, first: int = 0) -> int:
        """An order, or its continuation at place ``first``; an order from 0 replaces what the stream had. How many
        blocks the stream has now.

        Raises:
            TooLarge: more streams or blocks than there may be.
        """
        self.passed(now_s)
        known = self._streams.get(stream)
        if known is None or first == 0 or known.epoch != epoch:
            self._expire(now_s)
            if known is None and len(self._streams) >= STREAMS_MAX:
                raise TooLarge("more readers have said what they will read than are remembered", limit=STREAMS_MAX)
            self.drop(stream)
            known = self._streams[stream] = _Stream(epoch, now_s)
        known.heard_s, self._soon = now_s, None
        for block in blocks:
            if block.block_id in known.place:
                continue
            if len(known.blocks) >= BLOCKS_MAX:
                raise TooLarge("an order has more blocks than are remembered", limit=BLOCKS_MAX)
            known.place[block.block_id] = len(known.blocks)
            known.blocks.append(block)
            self._where.setdefault(block.block_id, set()).add(stream)
        return len(known.blocks)

    def drop(self, stream: str) -> None:
        """Forgets a stream."""
        known = self._streams.pop(stream, None)
        self._soon = None
        for block_id in known.place if known is not None else ():
            self._past.discard(block_id)
            streams = self._where[block_id]
            streams.discard(stream)
            if not streams:
                del self._where[block_id]

    def read(self, block_id: str, now_s: float) -> bool:
        """A block was read; whether a stream moved by it."""
        moved = False
        self.passed(now_s)
        for name in self._where.get(block_id, ()):
            stream = self._streams[name]
            stream.heard_s = now_s
            place = stream.place[block_id]
            if place in stream.read:
                continue
            stream.read.add(place)
            stream.at = max(stream.at, place + 1)
            self._used.pop(block_id, None)
            self._used[block_id] = None
            self._soon, moved = None, True
        return moved

    def passed(self, now_s: float) -> None:
        """It is so late now."""
        self._now_s = max(self._now_s, now_s)

    def soon(self) -> set[str]:
        """The blocks of all windows, as they were when something moved last."""
        if self._soon is None:
            self.wanted()
        return self._soon or set()

    def wanted(self) -> list[HintedBlock]:
        """The blocks of all windows as they are now, the next of each stream first."""
        going = [stream for stream in self._streams.values() if self._goes_on(stream)]
        share = self.budget_bytes // max(1, len(going))
        windows = [list(stream.window(share)) for stream in going]
        longest = max(map(len, windows), default=0)
        mixed = [w[n] for n in range(longest) for w in windows if n < len(w)]
        found = {block.block_id: block for block in mixed}
        self._soon = set(found)
        return list(found.values())

    def knows(self, block_id: str) -> bool:
        """Whether a stream has named the block."""
        return block_id in self._where

    def goes_past(self, block_id: str) -> None:
        """A read found no room for the block and goes past the tiers. The reads that follow do so too, whatever room
        there is then: a fill would fetch again what was read already, and nobody waits for the block any more."""
        if block_id in self._where:
            self._past.add(block_id)

    def is_past(self, block_id: str) -> bool:
        """Whether reads of the block go past the tiers, until one of its readers says another order."""
        return block_id in self._past and block_id not in self.soon()

    def awaits(self, block_id: str) -> bool:
        """Whether a stream will read the block, or is reading it: evicted now, it would be fetched again soon."""
        streams = (self._streams[name] for name in self._where.get(block_id, ()))
        return any(s.awaits(block_id) and self._goes_on(s) for s in streams)

    def _goes_on(self, stream: _Stream) -> bool:
        return self._now_s - stream.heard_s <= RESTING_S

    def behind(self) -> Iterator[str]:
        """Blocks that streams have behind them, the one that was read last first: nobody awaits them before another
        epoch, and in that one is as likely as another."""
        for block_id in list(islice(reversed(self._used), BEHIND_MAX)):
            if block_id not in self._where or not self.is_here(block_id):
                del self._used[block_id]
            elif not self.awaits(block_id):
                yield block_id

    def _expire(self, now_s: float) -> None:
        for name in [n for n, s in self._streams.items() if now_s - s.heard_s > SILENT_S]:
            self.drop(name)
        self._used = {b: None for b in self._used if b in self._where}

    def validate(self) -> None:
        """Checks the invariants."""
        assert len(self._streams) <= STREAMS_MAX
        for name, stream in self._streams.items():
            assert len(stream.blocks) == len(stream.place) <= BLOCKS_MAX
            assert all(stream.blocks[n].block_id == b and name in self._where[b] for b, n in stream.place.items())
        assert self._past <= self._where.keys()
        assert sum(map(len, self._where.values())) == sum(len(s.place) for s in self._streams.values())
