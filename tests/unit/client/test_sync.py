"""The blocking client: in threads, after a fork, and closed."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import random
import select
import signal
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from forebay.client import ClientOptions, SyncClient
from forebay.errors import InvalidRequest, NotFound
from forebay.testing.fake_cluster import FakeCluster

DATA = random.Random(1).randbytes(700_000)


@contextmanager
def cluster() -> Iterator[ClientOptions]:
    """A fake cluster in a thread of its own."""
    started = threading.Event()
    found: dict[str, str] = {}
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with FakeCluster({"a": DATA, "b": b"b"}, workers=2, block_size=1 << 18) as fake:
            found["registry"] = fake.registry
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield ClientOptions(registry=found["registry"], client_id="test", segment_bytes=1 << 16)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def in_child(work: object) -> int:
    """Exit code of a forked child that runs ``work``: 0 when it returns true."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if callable(work) and work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_files_are_listed_and_read() -> None:
    with cluster() as options, SyncClient(options) as client:
        assert [e.name for e in client.list("/")] == ["a", "b"]
        assert client.lookup("/b").entry.size == 1
        with client.open("/a") as reader:
            assert reader.read(0, len(DATA)) == DATA
            buffer = bytearray(10)
            assert reader.read_into(5, memoryview(buffer)) == 10
            assert bytes(buffer) == DATA[5:15]
        with pytest.raises(NotFound):
            client.open("/c")


def test_bytes_are_lent_to_threads_too() -> None:
    with cluster() as options, SyncClient(options) as client, client.open("/a") as reader:
        found = b""
        for offset in range(0, len(DATA), 100_000):
            with reader.lend(offset, 100_000) as views:
                found += b"".join(views)
        assert found == DATA


def test_threads_share_one_client() -> None:
    with cluster() as options, SyncClient(options) as client, client.open("/a") as reader:
        with ThreadPoolExecutor(4) as pool:
            pieces = list(pool.map(lambda i: reader.read(i * 70_000, 70_000), range(10)))
        assert b"".join(pieces) == DATA


def test_a_forked_child_reads_on_with_connections_of_its_own() -> None:
    with cluster() as options, SyncClient(options) as client, client.open("/a") as reader:
        assert reader.read(0, 100) == DATA[:100]

        def child() -> bool:
            again = reader.read(300_000, 100) == DATA[300_000:300_100]
            return again and client.lookup("/b").entry.size == 1

        assert [in_child(child), in_child(child)] == [0, 0]
        assert reader.read(100, 100) == DATA[100:200]


def test_a_child_may_close_what_it_inherited_without_disturbing_the_parent() -> None:
    with cluster() as options, SyncClient(options) as client, client.open("/a") as reader:
        reader.read(0, 100)

        def child() -> bool:
            reader.close()
            client.close()
            return True

        assert in_child(child) == 0
        assert reader.read(600_000, 100) == DATA[600_000:600_100]


def test_a_closed_client_says_so_and_leaves_no_thread() -> None:
    with cluster() as options:
        client = SyncClient(options)
        client.start()
        client.close()
        client.close()
        with pytest.raises(InvalidRequest):
            client.lookup("/a")
        assert not any(t.name == "forebay-client" for t in threading.enumerate())


def test_a_reader_may_outlive_its_client_and_still_be_closed() -> None:
    with cluster() as options:
        client = SyncClient(options)
        reader = client.open("/a")
        client.close()

        reader.close()
        with pytest.raises(InvalidRequest, match="closed"):
            reader.read(0, 1)


def test_what_the_collector_closes_in_the_loops_own_thread_is_not_waited_for() -> None:
    class Forgotten:
        """As a file of fsspec that nobody closed: in a cycle, closed when it is collected."""

        def __init__(self, client: SyncClient) -> None:
            self.reader = client.open("/a")
            self.reader.read(0, 1)
            self.me = self
            weakref.finalize(self, self.reader.close)

    async def collect() -> int:
        return gc.collect()

    def collected() -> bool:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a handler of Python's would wait as well
        signal.alarm(20)  # who waits for itself does so for ever
        gc.disable()  # so that it is collected nowhere else
        with SyncClient(options) as client:
            alive = weakref.ref(Forgotten(client))
            client.submit(lambda _: collect()).result()
            with client.open("/a") as reader:
                return alive() is None and reader.read(0, len(DATA)) == DATA

    with cluster() as options:
        assert in_child(collected) == 0


def test_who_made_a_client_is_not_woken_when_it_is_closed() -> None:
    """Python would begin an interrupted wait anew, and so hide it: the C library's own call tells. A mount that is slow
    at that moment gives EINTR to who is woken."""
    libc = ctypes.CDLL(None, use_errno=True)
    with cluster() as options, select.epoll() as nothing:
        client = SyncClient(options)
        client.start()
        closer = threading.Thread(target=client.close)
        closer.start()
        woken = libc.epoll_wait(nothing.fileno(), ctypes.create_string_buffer(12), 1, 500)
        closer.join()
        assert (woken, ctypes.get_errno()) == (0, 0)
