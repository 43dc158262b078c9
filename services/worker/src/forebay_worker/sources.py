"""Where bytes of a block come from when they are not here: the under store, or the block's home.

A source reads ranges of one block, by offsets inside it. It is used for fills and for reads that pass through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from forebay.contracts.blocks import Source as SourceName
from forebay.errors import RangeNotSatisfiable, StaleVersion
from forebay.ufs import Ufs, takes_whole

T = TypeVar("T")
Pieces = AsyncIterator[bytes | memoryview]


class BlockSource(Protocol):
    """Ranges of one block. ``name`` says where the bytes come from."""

    @property
    def name(self) -> SourceName:
        """``ufs`` or ``peer``."""

    @property
    def lane(self) -> str:
        """Whose streams a fill from here takes: what is tuned as one."""

    @property
    def is_atomic(self) -> bool:
        """Whether all bytes of one read are of one version as soon as they come. If not, only the end of a read tells
        so (a file may change under the reader), and each extent needs a read of its own before it counts."""

    def read(self, start: int, length: int) -> AsyncIterator[bytes | memoryview]:
        """Exactly ``length`` bytes from ``start``, in pieces that belong to the receiver.

        Raises:
            StaleVersion: the under store holds another version, or the file has another size than was claimed.
            ForebayError: whatever the under store or the peer said.
        """

    def lend(self, start: int, length: int) -> AsyncIterator[bytes | memoryview]:
        """As ``read``, but a piece is the receiver's only until the next is asked for (see ``Ufs.lend``)."""

    async def take(self, start: int, length: int) -> bytes:
        """As ``read``, in one piece: for short ranges."""


@dataclass(frozen=True)
class UfsSource:
    """One block of a file in the under store. Size and fingerprint are what a client claimed: both are compared.
    ``opened`` gives the mount's under store, opened when it is first needed; ``admit`` waits until a request for so
    many bytes may go out."""

    opened: Callable[[], Awaitable[Ufs]]
    key: str
    size: int
    fingerprint: str
    offset: int
    is_atomic: bool = False
    lane: str = "ufs"
    admit: Callable[[int], Awaitable[None]] | None = None
    share: Callable[[int, int, Callable[[], Pieces]], Pieces] | None = None

    @property
    def name(self) -> SourceName:
        """See ``BlockSource``."""
        return "ufs"

    def read(self, start: int, length: int) -> Pieces:
        """See ``BlockSource``."""
        if self.share is None:
            return self._owned(start, length)
        return self.share(start, length, lambda: self._owned(start, length))

    async def _owned(self, start: int, length: int) -> Pieces:
        async with closing(self.lend(start, length)) as pieces:
            async for piece in pieces:
                yield bytes(piece)

    async def lend(self, start: int, length: int) -> AsyncIterator[bytes | memoryview]:
        """See ``BlockSource``."""
        first = self.offset + start
        ufs = await self.opened()
        if self.admit is not None:
            await self.admit(length)
        pieces = ufs.lend(self.key, first, length, fingerprint=self.fingerprint, size=self.size)
        try:
            async with closing(pieces) as body:
                async for piece in body:
                    yield piece
        except RangeNotSatisfiable as e:
            raise StaleVersion("the file is shorter than was claimed", key=self.key) from e

    async def take(self, start: int, length: int) -> bytes:
        """See ``BlockSource``."""
        ufs = await self.opened()
        if not takes_whole(ufs):
            return await joined(self.lend(start, length))
        if self.admit is not None:
            await self.admit(length)
        try:
            return await ufs.take(self.key, self.offset + start, length, fingerprint=self.fingerprint, size=self.size)
        except RangeNotSatisfiable as e:
            raise StaleVersion("the file is shorter than was claimed", key=self.key) from e


async def joined(pieces: AsyncIterator[bytes | memoryview]) -> bytes:
    """All pieces as one."""
    async with closing(pieces) as body:
        return b"".join([bytes(piece) async for piece in body])


def closing(iterator: AsyncIterator[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]:
    """Closes an asynchronous generator that may be left early."""
    return _closing(iterator)


@asynccontextmanager
async def _closing(iterator: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    try:
        yield iterator
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
