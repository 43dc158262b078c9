"""Reads past the tiers that are alike and come at the same time share one request to the under store.

A block that is not admitted is read in pieces; whoever asks for the same piece meanwhile (a second try of a client that
would not wait, another rank) gets what has come already and then what comes, as with a fill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from forebay.contracts.records import EXTENT_SIZE
from forebay.errors import ForebayError
from forebay_worker.sources import Pieces, closing

BYTES_MAX = 64 << 20
"""What all shared reads hold together; more are read each by itself."""

RANGE_MAX = EXTENT_SIZE
"""The longest read that is shared."""

Claim = tuple[str, str, int]
"""A block, the mount it is read through, and the file's size as the reader has it: the under store judges each."""

_Key = tuple[Claim, int, int]


@dataclass(eq=False)
class _Shared:
    """One request. ``moved`` is set, and replaced, when a piece has come or it is over."""

    task: asyncio.Future[None]
    pieces: list[bytes | memoryview] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    readers: int = 0

    def wake(self) -> None:
        """Lets all readers look."""
        self.moved.set()
        self.moved = asyncio.Event()


class Passing:
    """All shared reads of one worker. A request belongs to its readers: the last one that leaves ends it."""

    def __init__(self) -> None:
        self._going: dict[_Key, _Shared] = {}
        self._held_bytes = 0

    def __len__(self) -> int:
        return len(self._going)

    async def read(self, claim: Claim, start: int, length: int, fetch: Callable[[], Pieces]) -> Pieces:
        """The bytes from ``start`` of the block; ``fetch`` asks for them if nobody does."""
        key = (claim, start, length)
        shared = self._going.get(key)
        if shared is None and (length > RANGE_MAX or self._held_bytes + length > BYTES_MAX):
            async with closing(fetch()) as pieces:
                async for piece in pieces:
                    yield piece
            return
        if shared is None:
            shared = self._begin(key, fetch)
        shared.readers += 1
        try:
            async with closing(_pieces_of(shared)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            shared.readers -= 1
            if not shared.readers:
                await self._end(key, shared)

    def _begin(self, key: _Key, fetch: Callable[[], Pieces]) -> _Shared:
        async def run() -> None:
            async with closing(fetch()) as pieces:
                async for piece in pieces:
                    shared.pieces.append(piece)
                    shared.wake()

        shared = self._going[key] = _Shared(asyncio.ensure_future(run()))
        self._held_bytes += key[2]
        shared.task.add_done_callback(lambda _: shared.wake())
        return shared

    async def _end(self, key: _Key, shared: _Shared) -> None:
        del self._going[key]
        self._held_bytes -= key[2]
        shared.task.cancel()
        await asyncio.wait([shared.task])
        if not shared.task.cancelled():
            shared.task.exception()  # whoever still read has raised it


async def _pieces_of(shared: _Shared) -> Pieces:
    place = 0
    while True:
        while place < len(shared.pieces):
            yield shared.pieces[place]
            place += 1
        if shared.task.done():
            _raise_error(shared.task)
            return
        await shared.moved.wait()


def _raise_error(task: asyncio.Future[None]) -> None:
    """What ended the request, as each reader's own: a traceback holds on to frames."""
    error = task.exception()
    if isinstance(error, ForebayError):
        raise type(error)(error.message, **error.details)
    if error is not None:
        raise error
