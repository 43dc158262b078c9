"""The namespace of a cluster as an fsspec file system, read-only. Paths are absolute: ``forebay:///imagenet/train``.

All calls run in the loop thread of one blocking client, made at the first call of each process: a forked child gets a
client of its own, and a pickled file system carries its options only. Names are cached by the client, for as long as
it was told, so nothing is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from fsspec.asyn import AsyncFileSystem, get_loop
from fsspec.callbacks import DEFAULT_CALLBACK

from forebay.client import Client, Reader, SyncClient, SyncReader
from forebay.contracts import Entry
from forebay.errors import InvalidRequest
from forebay.fsspec.files import ForebayFile, ForebayStream
from forebay.fsspec.oserrors import translated
from forebay.fsspec.settings import client_options

T = TypeVar("T")
Info = dict[str, Any]

PIECE_BYTES = 8 << 20
"""Longest piece that ``get`` holds in memory."""

RANGES_AT_ONCE = 8
"""Ranges of one ``cat_ranges`` under way at once."""

LISTINGS_AT_ONCE = 16
"""Directories of one ``find`` that are listed at once."""

READ_ONLY = "forebay:// is read-only: write to the under store itself; the change shows here when its names are renewed"


class ForebayFileSystem(AsyncFileSystem):
    """``fsspec.filesystem("forebay", registry="http://host:7070")``. Further options are those of ``ClientOptions``."""

    protocol = "forebay"
    root_marker = "/"
    cachable = True

    def __init__(
        self,
        registry: str | None = None,
        *,
        asynchronous: bool = False,
        loop: Any = None,
        batch_size: int | None = None,
        skip_instance_cache: bool = False,
        use_listings_cache: bool = False,
        **options: Any,
    ) -> None:
        self._pid = os.getpid()
        super().__init__(asynchronous=asynchronous, loop=loop, batch_size=batch_size, use_listings_cache=False)
        self._client = SyncClient(client_options({"registry": registry, **options}, os.environ))

    @property
    def loop(self) -> Any:
        """The loop of fsspec's thread in this process: after a fork it is another one."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._loop = None if self.asynchronous else get_loop()
        return self._loop

    @property
    def fsid(self) -> str:
        """Which cluster."""
        options = self._client.options
        return f"forebay_{options.cluster_id}@{options.registry}"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(p) for p in path]
        text = os.fspath(path).removeprefix("forebay://")
        return "/" + text.strip("/")

    def client(self) -> SyncClient:
        """The client that all calls go through."""
        return self._client

    def reader(self, path: str) -> SyncReader:
        """An open reader of the version that a lookup finds.

        Raises:
            FileNotFoundError: no such path. IsADirectoryError: a directory. OSError: what the cluster said.
        """
        path = self._strip_protocol(path)
        with translated(path):
            entry = self._client.lookup(path).entry
            if entry.kind == "dir":
                raise IsADirectoryError(f"is a directory: {path}")
            return self._client.open(path)

    def close(self) -> None:
        """End the client's connections and thread; the file system is of no use afterwards."""
        self._client.close()

    async def _call(self, path: str, call: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """A call of the client, in its own loop, waited for in ours."""
        with translated(path):
            return await asyncio.wrap_future(self._client.submit(call))

    # -- names

    async def _info(self, path: str, **kwargs: Any) -> Info:
        path = self._strip_protocol(path)
        found = await self._call(path, lambda client: client.lookup(path))
        return _info(path, found.entry)

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        path = self._strip_protocol(path)
        found = await self._info(path)
        entries = await self._listed(path) if found["type"] == "directory" else [found]
        return entries if detail else [entry["name"] for entry in entries]

    async def _listed(self, path: str) -> list[Info]:
        async def all_pages(client: Client) -> list[Entry]:
            return [entry async for entry in client.list(path)]

        base = path.rstrip("/")
        return [_info(f"{base}/{entry.name}", entry) for entry in await self._call(path, all_pages)]

    async def _find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any
    ) -> list[str] | dict[str, Info]:
        """All files below ``path``; a level of directories is listed at once."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        path = self._strip_protocol(path)
        found: dict[str, Info] = {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = await self._found(path, maxdepth, withdirs)
        names = sorted(found)
        return {name: found[name] for name in names} if kwargs.get("detail") else names

    async def _found(self, path: str, maxdepth: int | None, withdirs: bool) -> dict[str, Info]:
        own = await self._info(path)
        if own["type"] == "file":
            return {path: own}
        found, level, depth = {path: own} if withdirs else {}, [path], 0
        slots = asyncio.Semaphore(LISTINGS_AT_ONCE)

        async def listed(directory: str) -> list[Info]:
            async with slots:
                return await self._listed(directory)

        while level and (maxdepth is None or depth < maxdepth):
            pages = await asyncio.gather(*(listed(directory) for directory in level))
            entries = [entry for page in pages for entry in page]
            level, depth = [e["name"] for e in entries if e["type"] == "directory"], depth + 1
            found.update({e["name"]: e for e in entries if withdirs or e["type"] == "file"})
        return found

    async def _created(self, path: str) -> NoReturn:
        raise NotImplementedError("the under store tells only when a file was changed")

    async def _modified(self, path: str) -> datetime:
        return datetime.fromtimestamp((await self._info(path))["mtime"], tz=UTC)

    def modified(self, path: str) -> datetime:
        """When the file was changed."""
        return datetime.fromtimestamp(self.info(path)["mtime"], tz=UTC)

    def ukey(self, path: str) -> str:
        """Differs when the content does."""
        info = self.info(path)
        return str(info.get("version") or info["ino"])

    def checksum(self, path: str) -> int:
        """As ``ukey``, as a number."""
        return int(self.ukey(path), 16) if self.isfile(path) else int(self.ukey(path))

    # -- bytes

    @contextlib.contextmanager
    def _left(self, client: Client, reader: Reader) -> Iterator[Reader]:
        try:
            yield reader
        finally:
            reader.free()

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        async def read(client: Client) -> bytes:
            with self._left(client, await client.open(path)) as reader:
                low, high = _bounds(start, end, reader.size)
                return await reader.read(low, high - low)

        path = await self._file(path)
        return await self._call(path, read)

    async def _cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Ranges of files, each file opened once. ``max_gap`` asks for ranges to be joined, which is not done."""
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        low, high = _each(starts, len(paths)), _each(ends, len(paths))
        slots, found = asyncio.Semaphore(batch_size or RANGES_AT_ONCE), [b""] * len(paths)

        async def one(number: int) -> Any:
            async with slots:
                return await self._cat_file(paths[number], low[number], high[number])

        said = await asyncio.gather(*(one(n) for n in range(len(found))), return_exceptions=True)
        failed = next((e for e in said if isinstance(e, BaseException)), None)
        if failed is not None and on_error != "return":
            raise failed
        return list(said)

    async def _get_file(self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """Copy one file to this machine; what is there of it after an error is removed."""
        rpath = self._strip_protocol(rpath)
        if (await self._info(rpath))["type"] == "directory":
            os.makedirs(lpath, exist_ok=True)
            return
        target = Path(lpath)
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        try:
            await self._call(rpath, lambda client: _copy(client, rpath, target, callback))
        except BaseException:
            _remove(target)
            raise

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> ForebayFile:
        if mode != "rb":
            raise NotImplementedError(READ_ONLY)
        kwargs.pop("autocommit", None)
        block_size, options = kwargs.pop("block_size", None), kwargs.pop("cache_options", None)
        kept = {k: v for k, v in kwargs.items() if k in ("cache_type", "size")}
        return ForebayFile(self, self._strip_protocol(path), mode, block_size=block_size, cache_options=options, **kept)

    async def open_async(self, path: str, mode: str = "rb", **kwargs: Any) -> ForebayStream:
        """An open file for coroutines."""
        if mode != "rb" or kwargs.get("compression"):
            raise NotImplementedError(READ_ONLY if mode != "rb" else "no compression here")
        path = await self._file(path)
        return ForebayStream(self, path, await self._call(path, lambda client: client.open(path)))

    async def _file(self, path: str) -> str:
        """The path, stripped, if it is a file's."""
        path = self._strip_protocol(path)
        if (await self._info(path))["type"] == "directory":
            raise IsADirectoryError(f"is a directory: {path}")
        return path

    # -- what reading does not need

    async def _read_only(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(READ_ONLY)

    _put_file = _put = _pipe_file = _pipe = _cp_file = _copy = _mv_file = _rm_file = _rm = _mkdir = _makedirs = (
        _read_only
    )

    def _refused(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(READ_ONLY)

    touch = mv = move = rmdir = _refused


def _info(path: str, entry: Entry) -> Info:
    found: Info = {
        "name": path,
        "size": entry.size,
        "type": "directory" if entry.kind == "dir" else "file",
        "mtime": entry.mtime_ns / 1e9,
        "mode": entry.mode,
        "ino": entry.inode,
    }
    if entry.layout is not None:
        found["ETag"], found["version"] = entry.layout.fingerprint, entry.layout.version_id
    return found


def _bounds(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """As slices have them: negative ones count from the end."""
    low, high, _ = slice(start, end).indices(size)
    return low, max(low, high)


def _each(value: Any, count: int) -> Sequence[int | None]:
    found = list(value) if isinstance(value, Sequence) else [value] * count
    if len(found) != count:
        raise ValueError("as many starts and ends as paths are needed")
    return found


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _copy(client: Client, path: str, target: Path, callback: Any) -> None:
    reader = await client.open(path)
    file = await asyncio.to_thread(target.open, "wb")
    try:
        callback.set_size(reader.size)
        view, at = memoryview(bytearray(min(PIECE_BYTES, reader.size))), 0
        while at < reader.size:
            n = await reader.read_into(at, view)
            if n == 0:
                raise InvalidRequest("the file ended early", path=path)
            await asyncio.to_thread(file.write, view[:n])
            callback.relative_update(n)
            at += n
    finally:
        reader.free()
        await asyncio.to_thread(file.close)
