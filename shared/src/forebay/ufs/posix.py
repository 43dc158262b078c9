"""Files as an under store: a directory of this machine, read through aiofiles on threads of its own.

Links inside the directory are followed as long as they stay inside; one that leads out is refused, whatever it is
swapped for in between: the file that was really opened is asked for its path (``/proc/self/fd``). A link in the path
*to* the directory is followed once, at first use.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat as st
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from functools import partial
from typing import ParamSpec, TypeVar

import aiofiles
from aiofiles.base import AiofilesContextManager
from aiofiles.threadpool.binary import AsyncFileIO

from forebay.contracts.leaves import LEAF_VERSION, Leaf
from forebay.errors import NotFound, RangeNotSatisfiable, StaleVersion, UfsDenied, UfsError, UfsUnavailable
from forebay.telemetry import Telemetry
from forebay.ufs.base import PAGE_NAMES_MAX, UfsDir, UfsEntry, UfsFile, UfsLimits, UfsPage
from forebay.ufs.names import check_key, is_file_name
from forebay.ufs.observe import UfsMeter
from forebay.ufs.scan import DIRECTORY_MODE, Columns, OutsideError, scan
from forebay.ufs.scanners import Scanners
from forebay.ufs.uri import UfsUri

PIECE_BYTES = 1 << 20
"""One read call, one thread hop."""

SNAPSHOTS_MAX = 4
"""Sorted name lists kept between the pages of directories that are being listed."""

WHOLE_NAMES_MAX = 20_000
"""Names of a directory that is given whole; larger ones come in pages."""

SCANS_TOGETHER = 4
"""Directories that must be wanted at once before processes are started for them."""

P = ParamSpec("P")
T = TypeVar("T")


class PosixUfs:
    """``Ufs`` over the directory of a ``file://`` address."""

    def __init__(self, uri: UfsUri, telemetry: Telemetry, limits: UfsLimits) -> None:
        self._uri = uri
        self._root = _Root(f"/{uri.prefix}")
        self._limits = limits
        self._meter = UfsMeter(telemetry, "file")
        self._threads = ThreadPoolExecutor(limits.streams_max, thread_name_prefix="ufs-file")
        self._streams = asyncio.Semaphore(limits.streams_max)
        self._snapshots = _Snapshots()
        self._scanners = Scanners()
        self._scans = 0
        self._closed = False
        self._reads = 0

    @property
    def uri(self) -> UfsUri:
        """See ``Ufs``."""
        return self._uri

    @property
    def scanning(self) -> int:
        """Processes that scan for this one."""
        return len(self._scanners)

    async def list_page(self, directory: str, *, token: str | None = None, limit: int = PAGE_NAMES_MAX) -> UfsPage:
        """See ``Ufs``."""
        check_key(directory)
        with self._meter.call("list"), _translated(directory):
            page = await self._within(self._limits.request_timeout_s, self._list, directory, token, limit)
        self._meter.skipped(page.skipped)
        return page

    async def list_whole(self, directory: str, *, names_max: int = WHOLE_NAMES_MAX) -> Leaf | None:
        """See ``ListsWhole``. While several are wanted at once they are scanned by processes of their own."""
        check_key(directory)
        self._refuse_if_closed()
        self._scans += 1
        try:
            with self._meter.call("list"), _translated(directory):
                async with asyncio.timeout(self._limits.request_timeout_s):
                    found = await self._scan(directory, names_max)
        finally:
            self._scans -= 1
        if found is not None:
            self._meter.skipped(found[1])
        return None if found is None else found[0]

    async def _scan(self, directory: str, names_max: int) -> tuple[Leaf, int] | None:
        if self._root.real is None:
            await self._run(self._root.resolve)
        try:
            columns = await self._scanned(str(self._root.real), directory, names_max)
        except OutsideError:
            raise UfsDenied("a link leads out of the mounted directory", key=directory) from None
        if columns is None or not columns[5]:
            return None if columns is None else (Leaf(LEAF_VERSION, *columns[:5]), columns[6])
        return await self._run(self._with_links, directory, columns)

    async def _scanned(self, root: str, directory: str, names_max: int) -> Columns | None:
        if self._scans >= SCANS_TOGETHER or len(self._scanners):
            with suppress(ChildProcessError):  # then a thread will do
                return await self._scanners.scan(root, directory, names_max)
        return await self._run(scan, root, directory, names_max)

    def _with_links(self, directory: str, columns: Columns) -> tuple[Leaf, int]:
        """Links are few, and each must be looked at to see where it leads."""
        *shown, links, skipped = columns
        rows = list(zip(*shown, strict=True))
        with self._root.opened(directory) as descriptor:
            for name in links:
                entry = self._entry(directory, name, descriptor)
                if isinstance(entry, UfsFile):
                    rows.append((name, entry.mode, entry.size, entry.mtime_ns, entry.fingerprint))
                elif isinstance(entry, UfsDir):
                    rows.append((name, DIRECTORY_MODE, 0, entry.mtime_ns, ""))
                else:
                    skipped += entry == "skipped"
        rows.sort()
        return Leaf(LEAF_VERSION, *(map(list, zip(*rows, strict=True)) if rows else ([], [], [], [], []))), skipped

    async def stat(self, key: str) -> UfsEntry:
        """See ``Ufs``."""
        check_key(key)
        with self._meter.call("stat"), _translated(key):
            return await self._within(self._limits.request_timeout_s, self._stat, key)

    async def read(
        self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None
    ) -> AsyncIterator[bytes]:
        """See ``Ufs``. The version is looked at before the first byte and again before the last piece is handed out."""
        check_key(key)
        if length == 0:
            return
        async with self._streams:
            self._refuse_if_closed()
            self._reads += 1
            try:
                with self._meter.stream(), _translated(key):
                    async with aclosing(self._pieces(key, start, length, fingerprint, size)) as pieces:
                        async for piece in pieces:
                            self._meter.came_in(len(piece))
                            yield piece
            finally:
                self._reads -= 1
                self._end_threads()

    def lend(
        self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None
    ) -> AsyncIterator[bytes | memoryview]:
        """See ``Ufs``."""
        return self.read(key, start, length, fingerprint=fingerprint, size=size)

    async def close(self) -> None:
        """See ``Ufs``. A thread that hangs in the kernel is left to it."""
        self._closed = True
        await self._scanners.close()
        self._end_threads()

    def _end_threads(self) -> None:
        """The last read needs a thread to close its file."""
        if self._closed and not self._reads:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _pieces(
        self, key: str, start: int, length: int, fingerprint: str, size: int | None
    ) -> AsyncGenerator[bytes, None]:
        silence = self._limits.silence_timeout_s
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(silence):
                file = await stack.enter_async_context(self._opening(key))
            await self._check_version(file.fileno(), key, fingerprint, size, start + length)
            await file.seek(start)
            left = length
            while left:
                async with asyncio.timeout(silence):
                    piece = await file.read(min(left, PIECE_BYTES))
                left -= len(piece)
                if not left or not piece:
                    await self._check_version(file.fileno(), key, fingerprint, size, start + length)
                if not piece:
                    raise UfsUnavailable("the file ended early", key=key, missing_bytes=left)
                self._refuse_if_closed()
                yield piece

    def _opening(self, key: str) -> AiofilesContextManager[AsyncFileIO]:
        """Opens on a thread of ours; unbuffered, so a read is one system call."""
        return aiofiles.open(
            key, "rb", buffering=0, opener=lambda name, _: self._root.open_file(name), executor=self._threads
        )

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise UfsUnavailable("this under store is closed")

    async def _within(self, seconds: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._refuse_if_closed()
        async with asyncio.timeout(seconds):
            return await self._run(work, *args, **kwargs)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))

    async def _check_version(self, descriptor: int, key: str, fingerprint: str, size: int | None, end: int) -> None:
        status = await self._within(self._limits.silence_timeout_s, os.fstat, descriptor)
        if file_fingerprint(status) != fingerprint or (size is not None and size != status.st_size):
            raise StaleVersion("the file has changed", key=key)
        if end > status.st_size:
            raise RangeNotSatisfiable("the range ends behind the file", key=key, size=status.st_size)

    def _stat(self, key: str) -> UfsEntry:
        with self._root.opened(key) as descriptor:
            entry = _describe(key, os.fstat(descriptor))
        if entry is None:
            raise NotFound("neither a file nor a directory", key=key)
        return entry

    def _list(self, directory: str, token: str | None, limit: int) -> UfsPage:
        with self._root.opened(directory) as descriptor:
            names = self._snapshots.get(directory, descriptor, fresh=token is None)
            first = 0 if token is None else bisect_right(names, token)
            chosen = names[first : first + limit]
            found = [self._entry(directory, name.removesuffix("/"), descriptor) for name in chosen]
        entries = tuple(e for e in found if isinstance(e, UfsFile | UfsDir))
        more = first + limit < len(names)
        return UfsPage(entries, chosen[-1] if more else None, skipped=sum(e == "skipped" for e in found))

    def _entry(self, directory: str, name: str, descriptor: int) -> UfsEntry | str:
        """The entry, or why there is none: "skipped" or "gone"."""
        if not is_file_name(name):
            return "skipped"
        key = f"{directory}/{name}" if directory else name
        try:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if st.S_ISLNK(status.st_mode):
                with self._root.opened(key) as target:
                    status = os.fstat(target)
        except FileNotFoundError:
            return "gone"
        except (UfsDenied, OSError):  # a link that leads out, in a circle, or where we may not go
            return "skipped"
        return _describe(key, status) or "skipped"


class _Root:
    """Opens names beneath one directory and nothing else."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.real: str | None = None

    def resolve(self) -> str:
        """The directory's real path, found at first use."""
        if self.real is None:
            self.real = os.path.realpath(self._path, strict=True)
        return self.real

    @contextmanager
    def opened(self, key: str) -> Iterator[int]:
        """A path descriptor (``O_PATH``: no side effects on pipes and devices) of what ``key`` leads to."""
        real = self.resolve()
        descriptor = os.open(os.path.join(real, key), os.O_PATH | os.O_CLOEXEC)
        try:
            really = os.readlink(f"/proc/self/fd/{descriptor}")
            if not f"{really}/".startswith(real.rstrip("/") + "/"):
                raise UfsDenied("a link leads out of the mounted directory", key=key)
            yield descriptor
        finally:
            os.close(descriptor)

    def open_file(self, key: str) -> int:
        """A readable descriptor of the regular file ``key``."""
        with self.opened(key) as descriptor:
            if not st.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotFound("not a file", key=key)
            return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


class _Snapshots:
    """Sorted names of directories, so that the pages of one listing scan and sort it once. Directories end in "/"."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[int, list[str]]] = OrderedDict()

    def get(self, directory: str, descriptor: int, *, fresh: bool) -> list[str]:
        changed_ns = os.fstat(descriptor).st_mtime_ns
        held = self._held.pop(directory, None)
        if fresh or held is None or held[0] != changed_ns:
            with os.scandir(f"/proc/self/fd/{descriptor}") as found:
                held = (changed_ns, sorted(e.name + "/" if _is_dir(e) else e.name for e in found))
        self._held[directory] = held
        while len(self._held) > SNAPSHOTS_MAX:
            self._held.popitem(last=False)
        return held[1]


def file_fingerprint(status: os.stat_result) -> str:
    """Names a file's content by what changes with it: mtime in ns, size, inode."""
    return f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"


def _describe(key: str, status: os.stat_result) -> UfsEntry | None:
    if st.S_ISDIR(status.st_mode):
        return UfsDir(key, status.st_mtime_ns)
    if st.S_ISREG(status.st_mode):
        mode = status.st_mode & 0o777
        return UfsFile(key, status.st_size, status.st_mtime_ns, file_fingerprint(status), mode)
    return None


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """The one door for errors of the operating system."""
    try:
        yield
    except TimeoutError as e:
        raise UfsUnavailable("the file system did not answer in time", key=key) from e
    except OSError as e:
        raise _os_error(e, key) from e


def _os_error(error: OSError, key: str) -> UfsError | NotFound:
    name = errno.errorcode.get(error.errno or 0, "")
    if name in {"ENOENT", "ENOTDIR", "ENAMETOOLONG"}:
        return NotFound("no such file or directory", key=key)
    if name in {"EACCES", "EPERM", "ELOOP"}:
        return UfsDenied("the file system refuses", key=key, errno=name)
    return UfsUnavailable("the file system failed", key=key, errno=name)
