"""Open files of the file system: a blocking one with fsspec's buffer, and an asynchronous one without."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fsspec.asyn import AbstractAsyncStreamedFile
from fsspec.spec import AbstractBufferedFile

from forebay.client import Reader, SyncReader
from forebay.fsspec.oserrors import translated

if TYPE_CHECKING:
    from forebay.fsspec.filesystem import ForebayFileSystem

BLOCK_BYTES = 1 << 20
"""What a small read brings at least. The client reads ahead by itself, so this only spares calls between threads."""


class ForebayFile(AbstractBufferedFile):
    """One version of one file, for reading. Can be pickled: the other process opens the path anew."""

    DEFAULT_BLOCK_SIZE = BLOCK_BYTES

    def __init__(self, fs: ForebayFileSystem, path: str, mode: str = "rb", **kwargs: Any) -> None:
        self._reader: SyncReader = fs.reader(path)
        kwargs.setdefault("size", self._reader.size)
        super().__init__(fs, path, mode, **kwargs)

    def _fetch_range(self, start: int, end: int) -> bytes:
        with translated(self.path):
            return self._reader.read(start, end - start)

    def readinto(self, buffer: Any) -> int:
        """Large reads go straight into the caller's memory."""
        view = memoryview(buffer).cast("B")
        if len(view) < self.blocksize:
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)
        with translated(self.path):
            n = self._reader.read_into(self.loc, view)
        self.loc += n
        return n

    def close(self) -> None:
        """Lets the client's buffers go; a second time does nothing."""
        if not self.closed:
            with translated(self.path):
                self._reader.close()
        super().close()


class ForebayStream(AbstractAsyncStreamedFile):
    """As ``ForebayFile``, for coroutines; no buffer but the client's own readahead."""

    def __init__(self, fs: ForebayFileSystem, path: str, reader: Reader) -> None:
        self._reader = reader
        super().__init__(fs, path, "rb", cache_type="none", size=reader.size)

    async def _fetch_range(self, start: int, end: int) -> bytes:
        with translated(self.path):
            return await asyncio.wrap_future(self.fs.client().submit(lambda _: self._reader.read(start, end - start)))

    async def close(self) -> None:
        """Lets the client's buffers go; a second time does nothing."""
        if not self.closed:
            await asyncio.wrap_future(self.fs.client().submit(lambda _: self._reader.close()))
        await super().close()

    def __del__(self) -> None:
        """The base class would call ``close`` and drop the coroutine; the client frees what is left when it closes."""
