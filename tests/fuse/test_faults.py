"""A real mount over workers that misbehave: a read gives the right bytes or an errno within its deadline, never others.

The cluster is scripted (`forebay.testing.fake_cluster`) and in this process; the gateway is the real one. Each reader
is a program of its own, so that one that hangs fails the test and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest

from forebay.cli.children import Child, ChildSpec, wait_ready
from forebay.cli.cluster import detach_dead
from forebay.testing.cluster import eventually
from forebay.testing.fake_cluster import FakeCluster, Fault
from forebay.testing.faults import FaultProxy, Faults
from forebay.testing.tools import free_ports

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
T = TypeVar("T")
MIB = 1 << 20
SIZE = 5 * MIB + 333
DEADLINE_S = 3.0
MARGIN_S = 12.0
"""Readers on a busy machine: a Python has to start, and readahead may be under way beside the read that fails."""

READY_TIMEOUT_S = 60.0
READER = """
import errno, hashlib, os, sys, time
digest, fd = hashlib.sha256(), os.open(sys.argv[1], os.O_RDONLY)
began = time.monotonic()
try:
    while data := os.read(fd, 1 << 20):
        digest.update(data)
    print(digest.hexdigest())
except OSError as e:
    print(errno.errorcode[e.errno])
print(time.monotonic() - began)
"""


class Scripted:
    """A fake cluster on a thread of its own, and a gateway process that mounts it."""

    def __init__(self, folder: Path, *, workers: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-cluster")
        self._rng, self._count = random.Random(workers), 0
        self.mount = folder / "mount"
        self.mount.mkdir()
        self._stack = ExitStack()
        self._thread.start()
        self._stack.callback(self._end)
        self.cluster = FakeCluster({}, workers=workers, block_size=MIB)
        self.call(self.cluster.__aenter__())
        self._stack.callback(lambda: self.call(self.cluster.__aexit__(None, None, None)))
        self.gateway = self._stack.enter_context(self._gateway(folder))

    def call(self, what: Coroutine[Any, Any, T]) -> T:
        """Runs something on the cluster's loop."""
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(READY_TIMEOUT_S)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _gateway(self, folder: Path) -> Any:
        port = free_ports(1)[0]
        flags = ("--mountpoint", str(self.mount), "--registry", self.cluster.registry, "--host", "127.0.0.1")
        limits = ("--read-deadline", str(DEADLINE_S), "--short-circuit", "off", "--readahead", "2MiB")
        spec = ChildSpec("gateway", "forebay_fuse", (*flags, "--port", str(port), *limits), port)
        return started(Child(spec, logs=folder, env={"PATH": "/usr/bin:/bin:/sbin:/usr/sbin"}), self.mount)

    def fault(self, fault: Fault, *, workers: int = 99) -> None:
        """The first ``workers`` misbehave, the others don't."""
        for number, worker in enumerate(self.cluster.workers):
            worker.fault = fault if number < workers else "none"

    def new_file(self) -> tuple[Path, str]:
        """A file that nobody has read, and the digest of its bytes."""
        self._count += 1
        name, data = f"file-{self._count}", self._rng.randbytes(SIZE)
        self.cluster.master.files[name] = data
        return self.mount / name, hashlib.sha256(data).hexdigest()

    def close(self) -> None:
        """The end, in order."""
        self.fault("none")
        self._stack.close()


def started(child: Child, mount: Path) -> Any:
    """A gateway while the block lasts."""
    stack = ExitStack()
    child.start()
    stack.callback(lambda: detach_dead(mount))
    stack.callback(child.stop, READY_TIMEOUT_S)
    late = wait_ready([child], READY_TIMEOUT_S)
    if late is not None:
        tail = "\n".join(child.tail())
        stack.close()
        raise AssertionError(f"the gateway did not start:\n{tail}")
    return stack


def read(path: Path) -> str:
    """The digest, or the errno's name; within the deadline, as the reader itself measured it."""
    command = [sys.executable, "-I", "-S", "-c", READER, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found, took = done.stdout.split()
    assert float(took) < DEADLINE_S + MARGIN_S
    return found


def scripted(workers: int) -> Iterator[Scripted]:
    """A cluster of so many workers."""
    with tempfile.TemporaryDirectory(prefix="forebay-test-") as folder:
        cluster = Scripted(Path(folder), workers=workers)
        try:
            yield cluster
        finally:
            cluster.close()


@pytest.fixture(scope="module")
def _one() -> Iterator[Scripted]:
    yield from scripted(1)


@pytest.fixture(scope="module")
def _two() -> Iterator[Scripted]:
    yield from scripted(2)


@pytest.fixture
def one(_one: Scripted) -> Iterator[Scripted]:
    """One worker: nobody else can help."""
    yield _one
    _one.fault("none")


@pytest.fixture
def two(_two: Scripted) -> Iterator[Scripted]:
    """Two workers that may hold every block."""
    yield _two
    _two.fault("none")


ALONE: dict[Fault, tuple[str, ...]] = {
    "stall": ("ETIMEDOUT",),
    "half": ("ETIMEDOUT", "EIO"),
    "overloaded": ("EBUSY", "ETIMEDOUT"),
    "stale": ("ESTALE",),
    "ufs": ("EIO", "ETIMEDOUT"),
    "crash": ("EIO", "ETIMEDOUT"),
    "truncate": ("EIO", "ETIMEDOUT"),
    "short": ("EIO", "ETIMEDOUT"),
    "long": ("EIO", "ETIMEDOUT"),
    "whole": ("EIO", "ETIMEDOUT"),
}
"""What a program may be told when the only worker misbehaves in this way for as long as it is asked."""

HARMLESS = ("whole",)
"""Where nothing but whole blocks was asked for, the bytes are right."""


@pytest.mark.parametrize("fault", sorted(ALONE))
def test_a_worker_that_misbehaves_costs_an_errno_within_the_deadline(one: Scripted, fault: Fault) -> None:
    # given
    path, digest = one.new_file()
    one.fault(fault)
    # when, then
    assert read(path) in (*ALONE[fault], *([digest] if fault in HARMLESS else ()))
    # and once it behaves, so does the same file
    one.fault("none")
    eventually(lambda: read(path) == digest, timeout_s=30, what="the right bytes")


@pytest.mark.parametrize("fault", sorted(set(ALONE) - {"stale"}))
def test_another_worker_takes_over_and_the_reader_notices_nothing(two: Scripted, fault: Fault) -> None:
    path, digest = two.new_file()
    two.fault(fault, workers=1)
    assert read(path) == digest


def test_a_version_that_is_gone_is_estale_even_if_one_worker_alone_says_so(two: Scripted) -> None:
    path, digest = two.new_file()
    two.fault("stale", workers=1)
    assert read(path) in (digest, "ESTALE")


# A connection that ends within each block makes no errno but a crawl: the kernel asks for each page anew when a request
# for many has failed, and each of these ends in time. So the cuts below come after a block or at once.
NETWORKS: dict[str, Faults] = {
    "reset": Faults(cut_after=1_500_000),
    "truncated": Faults(cut_after=1_500_000, ending="close"),
    "half closed": Faults(cut_after=1_500_000, ending="half"),
    "black hole": Faults(stalled=True),
    "refusing": Faults(refusing=True),
    "cut at once": Faults(cut_after=0),
}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_network_that_fails_costs_an_errno_and_never_a_wrong_byte(one: Scripted, name: str) -> None:
    # given a worker that is reached by way of a proxy
    worker = one.cluster.workers[0]
    with FaultProxy(one.cluster.address(worker.name)) as proxy:
        one.call(one.cluster.announce(worker, address=proxy.address))
        path, digest = one.new_file()
        eventually(lambda: read(path) == digest and proxy.connections > 0, timeout_s=30, what="a way through the proxy")
        # when its network fails under a reader
        path, digest = one.new_file()
        proxy.faults = NETWORKS[name]
        proxy.cut()
        assert read(path) in (digest, "EIO", "ETIMEDOUT")
        # then all is well when it is back
        proxy.faults = Faults()
        proxy.cut()
        eventually(lambda: read(path) == digest, timeout_s=60, what="the right bytes")
    one.call(one.cluster.announce(worker))


def test_many_readers_of_a_worker_that_hangs_all_get_their_errno(one: Scripted) -> None:
    # given
    one.fault("stall")
    paths = [one.new_file()[0] for _ in range(6)]
    command = [sys.executable, "-I", "-S", "-c", READER]
    # when
    began = time.monotonic()
    readers = [subprocess.Popen([*command, str(p)], stdout=subprocess.PIPE, text=True) for p in paths]
    found = [reader.communicate(timeout=60)[0].split()[0] for reader in readers]
    # then
    assert found == ["ETIMEDOUT"] * len(paths)
    assert time.monotonic() - began < DEADLINE_S + 2 * MARGIN_S
