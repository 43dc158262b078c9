"""What will be read soon, by the word of those who read: which blocks to fetch now, to give up, to keep. Pure.

A *stream* is the order in which one reader (a rank in an epoch) will read blocks of this worker. What it has read so
far shows where it is; the *window* is what follows, up to its share of a byte budget. Blocks of the window that are
not here are fetched, just in time. Blocks that are here take of the budget too, so that the windows of all workers
reach equally far: one that lacks little does not fetch what is read much later while the reader waits for one that
lacks much. A block is *awaited* while a stream that was heard of lately has it before it, however far: it is not
evicted for a block that is fetched ahead, or it would have to be fetched again in the same epoch. What all streams
have *behind* them makes room. What a stream has jumped over is not fetched any more.

An order may have a *next* one, that of the epoch to come. When a window reaches the end of its order, a little of
what is left of its budget is for the beginning of the next, so that an epoch does not begin by waiting. It is little
because it is fetched in addition: whatever is here when an epoch begins, what the tiers lack of the dataset is to be
fetched in it. Of the next order only this much is awaited: to await all of it would leave no room.

Invariants (``validate``): (1) a block is known to a stream at one place; (2) ``_where`` names exactly the streams'
blocks; (3) no more than ``STREAMS_MAX`` streams of ``BLOCKS_MAX`` blocks; (4) a next order follows a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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

NEXT_SHARE = 16
"""One part in so many of a window's budget is what the next order gets at most."""

BEHIND_MAX = 2048
"""Blocks that are looked at for those that all streams have behind them."""


@dataclass(frozen=True)
class HintedBlock:
    """One block of an order, with what it takes of the tiers."""

    block_id: str
    size: int


_Key = tuple[str, bool]
"""A stream's name, and whether it is its next order."""


@dataclass
class _Stream:
    """``at`` is one past the furthest block that was read; ``is_next``: it is read after another one."""

    epoch: int
    heard_s: float
    is_next: bool = False
    blocks: list[HintedBlock] = field(default_factory=list)
    place: dict[str, int] = field(default_factory=dict)
    read: set[int] = field(default_factory=set)
    at: int = 0

    def window(self, budget_bytes: int) -> Iterator[HintedBlock]:
        """What is read next, here or not, as far as it fits; the first block of an order that is read always does."""
        left, is_first = budget_bytes, not self.is_next
        for number in range(max(0, self.at - SLACK), min(len(self.blocks), self.at + WINDOW_BLOCKS)):
            if number in self.read:
                continue
            block = self.blocks[number]
            left -= block.size
            if left < 0 and not is_first:
                return
            is_first = False
            yield block

    def ends_with(self, window: Sequence[HintedBlock]) -> bool:
        """Whether nothing comes after the window."""
        return self.at == len(self.blocks) or (bool(window) and window[-1] is self.blocks[-1])

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
        self._streams: dict[_Key, _Stream] = {}
        self._where: dict[str, set[_Key]] = {}
        self._soon: set[str] | None = None
        self._used: dict[str, None] = {}
        self._past: set[str] = set()

    def __len__(self) -> int:
        """Readers."""
        return sum(not is_next for _, is_next in self._streams)

    def __contains__(self, block_id: object) -> bool:
        """Whether the block lies in a window: it is wanted here."""
        return block_id in self.soon()

    def take(
        self,
        stream: str,
        epoch: int,
        blocks: Iterable[HintedBlock],
        now_s: float,
        *,
        first: int = 0,
        is_next: bool = False,
    ) -> int:
        """An order, or its continuation at place ``first``; an order from 0 replaces what the stream had, and its next
        order. How many blocks the order has now. What ``is_next`` of a stream that is not known is its order.

        Raises:
            TooLarge: more streams or blocks than there may be.
        """
        self.passed(now_s)
        key = stream, is_next and (stream, False) in self._streams
        if key[1]:
            self._streams[stream, False].heard_s = now_s
        known = self._streams.get(key)
        if known is None or first == 0 or known.epoch != epoch:
            self._expire(now_s)
            if known is None and len(self._streams) >= STREAMS_MAX:
                raise TooLarge("more readers have said what they will read than are remembered", limit=STREAMS_MAX)
            self._drop(key)
            known = self._streams[key] = _Stream(epoch, now_s, key[1])
        known.heard_s, self._soon = now_s, None
        for block in blocks:
            if block.block_id in known.place:
                continue
            if len(known.blocks) >= BLOCKS_MAX:
                raise TooLarge("an order has more blocks than are remembered", limit=BLOCKS_MAX)
            known.place[block.block_id] = len(known.blocks)
            known.blocks.append(block)
            self._where.setdefault(block.block_id, set()).add(key)
        return len(known.blocks)

    def _drop(self, key: _Key) -> None:
        """Forgets an order, and the one after it."""
        known = self._streams.pop(key, None)
        self._soon = None
        if not key[1]:
            self._drop((key[0], True))
        for block_id in known.place if known is not None else ():
            streams = self._where[block_id]
            streams.discard(key)
            if not streams or not key[1]:
                self._past.discard(block_id)
            if not streams:
                del self._where[block_id]

    def read(self, block_id: str, now_s: float) -> bool:
        """A block was read; whether a stream moved by it."""
        moved = False
        self.passed(now_s)
        for key in self._where.get(block_id, ()):
            stream = self._streams[key]
            if stream.is_next:
                continue
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
        going = [name for (name, _), s in self._streams.items() if not s.is_next and self._goes_on(s)]
        share = self.budget_bytes // max(1, len(going))
        windows = [self._window(name, share) for name in going]
        longest = max(map(len, windows), default=0)
        mixed = [w[n] for n in range(longest) for w in windows if n < len(w)]
        found = {block.block_id: block for block in mixed}
        self._soon = set(found)
        return list(found.values())

    def _window(self, name: str, budget_bytes: int) -> list[HintedBlock]:
        """Of a stream, and of its next order what is left of the budget."""
        stream, following = self._streams[name, False], self._streams.get((name, True))
        window = list(stream.window(budget_bytes))
        if following is None or not stream.ends_with(window):
            return window
        left = budget_bytes - sum(block.size for block in window)
        return window + list(following.window(min(left, budget_bytes // NEXT_SHARE)))

    def is_read(self, block_id: str) -> bool:
        """Whether a reader has come to the block: what is under way for it is of use now."""
        streams = (self._streams[key] for key in self._where.get(block_id, ()))
        return any(not s.is_next and s.place[block_id] in s.read for s in streams)

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
        streams = [self._streams[key] for key in self._where.get(block_id, ())]
        if any(not s.is_next and s.awaits(block_id) and self._goes_on(s) for s in streams):
            return True
        return any(s.is_next for s in streams) and block_id in self.soon()

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
        for key in [k for k, s in self._streams.items() if not s.is_next and now_s - s.heard_s > SILENT_S]:
            self._drop(key)
        self._used = {b: None for b in self._used if b in self._where}

    def validate(self) -> None:
        """Checks the invariants."""
        assert len(self._streams) <= STREAMS_MAX
        for key, stream in self._streams.items():
            assert stream.is_next == key[1]
            assert (key[0], False) in self._streams
            assert len(stream.blocks) == len(stream.place) <= BLOCKS_MAX
            assert all(stream.blocks[n].block_id == b and key in self._where[b] for b, n in stream.place.items())
        assert self._past <= self._where.keys()
        assert sum(map(len, self._where.values())) == sum(len(s.place) for s in self._streams.values())
