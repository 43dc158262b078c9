"""What will be read soon, by the word of those who read: which blocks to fetch now, to give up, to keep. Pure.

A *stream* is the order in which one reader (a rank in an epoch) will read blocks of this worker. What it has read so
far shows where it is; the *window* is what follows, up to its share of a byte budget. Blocks of the window that are
not here are fetched, just in time; blocks of the window are not evicted; a block that was fetched for a stream and read
goes before all others. What the stream has jumped over is not fetched any more.

Invariants (``validate``): (1) a block is known to a stream at one place; (2) ``_where`` names exactly the streams'
blocks; (3) no more than ``STREAMS_MAX`` streams of ``BLOCKS_MAX`` blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from forebay.errors import TooLarge

STREAMS_MAX = 256
BLOCKS_MAX = 200_000
"""Of one stream."""

SLACK = 4
"""Blocks that may be overtaken by later ones before they count as jumped over: loaders read several at once."""

SILENT_S = 600.0
"""A stream that was not heard of for so long is forgotten."""


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
        """What is read next, as far as it fits; the first block always does."""
        left = budget_bytes
        for number in range(max(0, self.at - SLACK), len(self.blocks)):
            if number in self.read:
                continue
            block = self.blocks[number]
            left -= block.size
            if left < 0 and left + block.size < budget_bytes:
                return
            yield block


class Hints:
    """All streams of one worker. ``budget_bytes`` is what all windows have together."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._streams: dict[str, _Stream] = {}
        self._where: dict[str, set[str]] = {}
        self._soon: set[str] | None = None
        self._fetched: set[str] = set()
        self._used: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __contains__(self, block_id: object) -> bool:
        """Whether the block lies in a window: it is wanted here, and is not to be evicted."""
        return block_id in self.soon()

    def take(self, stream: str, epoch: int, blocks: Iterable[HintedBlock], now_s: float, *, first: int = 0) -> int:
        """An order, or its continuation at place ``first``; an order from 0 replaces what the stream had. How many
        blocks the stream has now.

        Raises:
            TooLarge: more streams or blocks than there may be.
        """
        known = self._streams.get(stream)
        if known is None or first == 0 or known.epoch != epoch:
            self._expire(now_s)
            if known is None and len(self._streams) >= STREAMS_MAX:
                raise TooLarge("more readers have said what they will read than are remembered", limit=STREAMS_MAX)
            self.drop(stream)
            known = self._streams[stream] = _Stream(epoch, now_s)
        self._soon = None
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
            streams = self._where[block_id]
            streams.discard(stream)
            if not streams:
                del self._where[block_id]

    def read(self, block_id: str, now_s: float) -> bool:
        """A block was read; whether a stream moved by it."""
        moved = False
        for name in self._where.get(block_id, ()):
            stream = self._streams[name]
            stream.heard_s = now_s
            place = stream.place[block_id]
            if place in stream.read:
                continue
            stream.read.add(place)
            stream.at = max(stream.at, place + 1)
            self._used[block_id] = None
            self._soon, moved = None, True
        return moved

    def soon(self) -> set[str]:
        """The blocks of all windows."""
        if self._soon is None:
            self._soon = {block.block_id for block in self.wanted()}
        return self._soon

    def wanted(self) -> list[HintedBlock]:
        """The blocks of all windows, the next of each stream first."""
        share = self.budget_bytes // max(1, len(self._streams))
        windows = [list(stream.window(share)) for stream in self._streams.values()]
        longest = max(map(len, windows), default=0)
        mixed = [w[n] for n in range(longest) for w in windows if n < len(w)]
        return list({block.block_id: block for block in mixed}.values())

    def fetched(self, block_id: str) -> None:
        """The block was fetched because of a hint."""
        self._fetched.add(block_id)

    def give(self, is_here: Callable[[str], bool], *, is_short: bool) -> list[str]:
        """Blocks that may go before all others now: fetched for a stream, read, and out of every window. If room is
        short and there are none such, the one that was read last: it is needed again later than any other."""
        soon, given = self.soon(), list[str]()
        behind = [block_id for block_id in self._used if block_id not in soon and not self._is_near(block_id)]
        for block_id in behind:
            if block_id in self._fetched:
                self._fetched.discard(block_id)
                del self._used[block_id]
                given.append(block_id)
        if is_short and not given:
            last = next((b for b in reversed(behind) if b in self._used and is_here(b)), None)
            if last is not None:
                del self._used[last]
                given.append(last)
        return given

    def _is_near(self, block_id: str) -> bool:
        """Whether a stream may still be reading it."""
        return any((s := self._streams[name]).place[block_id] >= s.at - SLACK for name in self._where.get(block_id, ()))

    def _expire(self, now_s: float) -> None:
        for name in [n for n, s in self._streams.items() if now_s - s.heard_s > SILENT_S]:
            self.drop(name)
        self._used = {b: None for b in self._used if b in self._where}
        self._fetched &= self._where.keys()

    def validate(self) -> None:
        """Checks the invariants."""
        assert len(self._streams) <= STREAMS_MAX
        for name, stream in self._streams.items():
            assert len(stream.blocks) == len(stream.place) <= BLOCKS_MAX
            assert all(stream.blocks[n].block_id == b and name in self._where[b] for b, n in stream.place.items())
        assert sum(map(len, self._where.values())) == sum(len(s.place) for s in self._streams.values())
