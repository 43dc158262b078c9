"""The blocking face of the client: one event loop in one thread, for programs that are not asynchronous.

Safe after ``fork``: a child finds that the process id changed and makes a loop, a thread and connections of its own at
its first call; readers that were opened before go on there with the same version. What the parent had is left alone
in the child (closing it would speak on the parent's connections). Safe across threads.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Any, TypeVar

import uvloop

from forebay.client.client import Client
from forebay.client.options import ClientOptions
from forebay.client.reader import Reader
from forebay.contracts import ClusterMap, Entry, LookupReply, SyncReply
from forebay.errors import InvalidRequest
from forebay.telemetry import Telemetry, quiet

T = TypeVar("T")

STOP_S = 10.0
"""Time that the loop's thread gets to end."""

_ABANDONED: list[object] = []
"""Loops and clients of the parent process, kept from the garbage collector of a forked child."""

_CLIENTS: weakref.WeakSet[SyncClient] = weakref.WeakSet()


def _after_fork() -> None:
    for client in tuple(_CLIENTS):
        client._forked()


os.register_at_fork(after_in_child=_after_fork)


class _Core:
    """One thread with one loop with one client, in one process.

    The loop is made and closed in its thread: it has an io_uring, and Linux wakes the thread that made one when it goes
    (task work). A caller that waits in a file system at that moment (FUSE, NFS) would get EINTR though no signal came.
    """

    def __init__(self, options: ClientOptions, telemetry: Telemetry) -> None:
        self.pid = os.getpid()
        made: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=_run_loop, args=(made,), name="forebay-client", daemon=True)
        self._thread.start()
        self._loop = made.result()
        try:
            self.client = self.run(self._made(options, telemetry))
        except BaseException:
            self._stop_loop()
            raise

    @staticmethod
    async def _made(options: ClientOptions, telemetry: Telemetry) -> Client:
        client = Client(options, telemetry)
        return await client.__aenter__()

    def submit(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin the coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(coro, self._loop)

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result. An interrupt (Ctrl-C) cancels it."""
        future = self.submit(coro)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def finish(self, coro: Coroutine[Any, Any, object]) -> None:
        """Gives something back. A finalizer may call this in the loop's own thread, where the collector happens to run:
        then it is begun and not waited for, for the loop would wait for itself."""
        if threading.current_thread() is self._thread:
            self.submit(coro)
        else:
            self.run(coro)

    def close(self) -> None:
        try:
            self.run(self.client.close())
        finally:
            self._stop_loop()

    def _stop_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_S)


def _run_loop(made: Future[asyncio.AbstractEventLoop]) -> None:
    """A thread's life: a loop, from its beginning to its end."""
    try:
        loop = uvloop.new_event_loop()
    except BaseException as e:
        made.set_exception(e)
        raise
    made.set_result(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


class SyncClient:
    """``with SyncClient(options) as client``. The first connection is made when it is entered (or first used)."""

    def __init__(self, options: ClientOptions, telemetry: Telemetry | None = None) -> None:
        options.validate()
        self.options = options
        self._telemetry = telemetry or quiet()
        self._core: _Core | None = None
        self._lock = threading.Lock()
        self._closed = False
        _CLIENTS.add(self)

    def __enter__(self) -> SyncClient:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """As ``Client.start``."""
        self.core()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, for good."""
        return self._closed

    def core(self) -> _Core:
        """This process's loop and client, made when needed."""
        core = self._core
        if core is not None:
            return core
        with self._lock:
            if self._closed:
                raise InvalidRequest("the client is closed")
            if self._core is None:
                self._core = _Core(self.options, self._telemetry)
            return self._core

    def _forked(self) -> None:
        """In the child, before anything else runs there: one thread, so no lock is needed (or can be trusted)."""
        self._lock = threading.Lock()
        if self._core is not None:
            _ABANDONED.append(self._core)
            self._core = None

    def submit(self, call: Callable[[Client], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begin a call of the asynchronous client, for who waits elsewhere; cancelling the future cancels it."""
        core = self.core()
        return core.submit(call(core.client))

    def cluster_map(self) -> ClusterMap | None:
        """As ``Client.cluster_map``."""
        return self.core().client.cluster_map

    def lookup(self, path: str) -> LookupReply:
        """As ``Client.lookup``."""
        core = self.core()
        return core.run(core.client.lookup(path))

    def list(self, path: str) -> Iterator[Entry]:
        """As ``Client.list``, page by page."""
        token: str | None = None
        while True:
            core = self.core()
            page = core.run(core.client.list_page(path, token))
            yield from page.entries
            token = page.next_page_token
            if token is None:
                return

    def sync(self, path: str, *, recursive: bool = False) -> SyncReply:
        """As ``Client.sync``."""
        core = self.core()
        return core.run(core.client.sync(path, recursive=recursive))

    def hint(self, files: Sequence[str], *, epoch: int = 0, seed: int = 0, rank: int = 0, is_next: bool = False) -> int:
        """As ``Client.hint``."""
        core = self.core()
        return core.run(core.client.hint(files, epoch=epoch, seed=seed, rank=rank, is_next=is_next))

    def open(self, path: str) -> SyncReader:
        """As ``Client.open``."""
        core = self.core()
        return SyncReader(self, core.run(core.client.open(path)), core.pid)

    def close(self) -> None:
        """Close what this process made; a second time does nothing."""
        with self._lock:
            core, self._core, self._closed = self._core, None, True
        if core is not None:
            core.close()


class SyncReader:
    """As ``Reader``, blocking. Not a file object: positions are the caller's."""

    def __init__(self, client: SyncClient, reader: Reader, pid: int) -> None:
        self._client = client
        self._reader: Reader | None = reader
        self._pid = pid
        self.file = reader.file
        self.size = reader.size
        self.fingerprint = reader.fingerprint

    def __enter__(self) -> SyncReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """As ``Reader.read_into``."""
        return self._run(lambda reader: reader.read_into(offset, buffer))

    def read(self, offset: int, length: int) -> bytes:
        """As ``Reader.read``."""
        return self._run(lambda reader: reader.read(offset, length))

    @contextmanager
    def lend(self, offset: int, length: int) -> Iterator[list[memoryview]]:
        """As ``Reader.lend``. What is lent outlives the reader, but not its client."""

        async def enter(reader: Reader) -> tuple[AbstractAsyncContextManager[list[memoryview]], list[memoryview]]:
            lent = reader.lend(offset, length)
            return lent, await lent.__aenter__()

        async def leave() -> None:
            await lent.__aexit__(None, None, None)

        lent, views = self._run(enter)
        pid = os.getpid()
        try:
            yield views
        finally:
            if pid == os.getpid() and not self._client.is_closed:
                self._client.core().finish(leave())

    def close(self) -> None:
        """As ``Reader.close``; one whose client was closed before has nothing left to give back."""
        reader, self._reader = self._reader, None
        if reader is not None and self._pid == os.getpid() and not self._client.is_closed:
            self._client.core().finish(reader.close())

    def _run(self, call: Callable[[Reader], Coroutine[Any, Any, T]]) -> T:
        core = self._client.core()
        if self._reader is None:
            raise InvalidRequest("the reader is closed")
        if self._pid != core.pid:
            core.run(self._reopen(core))
        assert self._reader is not None
        return core.run(call(self._reader))

    async def _reopen(self, core: _Core) -> None:
        """The same version in this process: no call needed."""
        _ABANDONED.append(self._reader)
        self._reader = core.client.open_layout(self.file.mount_id, self.file.layout, self.file.path)
        self._pid = core.pid
