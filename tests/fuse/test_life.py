"""A mount's life: readers that are interrupted, stopping while files are open, and nothing held at rest."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
MIB = 1 << 20
NAMES = 3000
TIMEOUT_S = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A large file, and a folder of many names."""
    source = tmp_path / "source"
    (source / "many").mkdir(parents=True)
    (source / "file").write_bytes(random.Random(5).randbytes(48 * MIB))
    for number in range(NAMES):
        (source / "many" / f"name-{number:05d}").touch()
    return source


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    """Bytes come by HTTP/2 only, a busy mount is waited for shortly."""
    flags = {"gateway": ("--busy-timeout", "2")}
    with Cluster.of_folder(folder, mounts=1, short_circuit=False, extra=flags) as cluster:
        yield cluster


def drop_caches() -> None:
    """What the kernel keeps of files that nobody uses goes: pages, names and inodes."""
    Path("/proc/sys/vm/drop_caches").write_text("3")


def at_rest(cluster: Cluster) -> dict[str, float]:
    """The gauges of the gateway that must return to zero."""
    names = ("handles", "pending", "buffers")
    found = cluster.metrics("gateway")
    return {name: found[f"forebay_fuse_{name}"] for name in names} | {
        "readers": found["forebay_client_open_readers"],
        "readahead": found["forebay_client_readahead_bytes"],
    }


def test_at_rest_nothing_is_held_and_the_kernel_has_given_every_name_back(cluster: Cluster) -> None:
    # given names that were listed and files that were read
    listed = subprocess.run(["ls", "-lR", cluster.mount], capture_output=True, timeout=TIMEOUT_S, check=True)
    assert listed.stdout.count(b"name-") == NAMES
    subprocess.run(["cat", cluster.mount / "file"], stdout=subprocess.DEVNULL, timeout=TIMEOUT_S, check=True)
    assert cluster.metrics("gateway")["forebay_fuse_inodes"] > NAMES
    # when the kernel lets go of what is not in use
    drop_caches()
    # then every gauge returns to where it was
    eventually(lambda: not any(at_rest(cluster).values()), what="gauges at zero")
    eventually(lambda: cluster.metrics("gateway")["forebay_fuse_inodes"] == 1, what="inodes given back")


def test_a_listing_asks_for_attributes_once_and_not_per_name(cluster: Cluster) -> None:
    subprocess.run(["ls", "-l", cluster.mount / "many"], capture_output=True, timeout=TIMEOUT_S, check=True)
    found = cluster.metrics("gateway")
    assert found['forebay_fuse_requests_total{op="lookup"}'] < 10
    assert found['forebay_fuse_requests_total{op="readdirplus"}'] < NAMES / 10


SEEKING = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("reclen", ctypes.c_uint16),
                ("type", ctypes.c_uint8), ("name", ctypes.c_char * 256)]
d = ctypes.c_void_p(libc.opendir(sys.argv[1].encode()))
def rest():
    names = []
    while entry := libc.readdir(d):
        names.append(ctypes.cast(entry, ctypes.POINTER(Dirent)).contents.name)
    return names
for _ in range(int(sys.argv[2])):
    libc.readdir(d)
place = libc.telldir(d)
tail = rest()
libc.seekdir(d, ctypes.c_long(place))
assert rest() == tail, "seekdir"
libc.rewinddir(d)
everything = rest()
assert everything[-len(tail):] == tail and len(everything) == len(set(everything)), "rewinddir"
print(len(everything))
"""


def test_a_program_may_seek_and_rewind_in_a_listing(cluster: Cluster) -> None:
    command = [sys.executable, "-c", SEEKING, str(cluster.mount / "many"), "1234"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == NAMES + 2


def test_a_reader_that_hangs_ends_with_its_signal_and_the_mount_lives_on(cluster: Cluster) -> None:
    # given a reader that waits for a worker which does not answer
    mounted = cluster.mount / "file"
    assert mounted.stat().st_size == 48 * MIB
    cluster.pause("worker-0")
    try:
        reader = subprocess.Popen(["dd", f"if={mounted}", "of=/dev/null", "bs=1M"], stderr=subprocess.DEVNULL)
        eventually(lambda: cluster.metrics("gateway")["forebay_fuse_pending"] > 0, what="a waiting read")
        # when it is killed
        reader.send_signal(signal.SIGKILL)
        # then it ends, long before any deadline
        assert reader.wait(timeout=5) == -signal.SIGKILL
    finally:
        cluster.resume("worker-0")
    # and others read on
    done = subprocess.run(["sha256sum", mounted], capture_output=True, timeout=TIMEOUT_S, check=True)
    assert done.returncode == 0


INTERRUPTED = """
import os, signal, sys
class Late(Exception): pass
def late(*_): raise Late
signal.signal(signal.SIGALRM, late)
fd = os.open(sys.argv[1], os.O_RDONLY)
signal.setitimer(signal.ITIMER_REAL, 0.5)
try:
    os.pread(fd, 1 << 20, 0)
except Late:
    sys.exit(7)
"""


def test_a_signal_interrupts_a_read_that_waits(folder: Path) -> None:
    flags = {"gateway": ("--direct-io",)}
    with Cluster.of_folder(folder, mounts=1, short_circuit=False, extra=flags) as cluster:
        mounted = cluster.mount / "file"
        assert mounted.stat().st_size == 48 * MIB
        cluster.pause("worker-0")
        try:
            reader = subprocess.run([sys.executable, "-c", INTERRUPTED, str(mounted)], timeout=10, check=False)
        finally:
            cluster.resume("worker-0")
        assert reader.returncode == 7
        assert cluster.metrics("gateway")['forebay_fuse_requests_total{op="interrupt"}'] >= 1
        with mounted.open("rb", buffering=0) as file:
            assert file.read(MIB) == (folder / "file").read_bytes()[:MIB]


def test_a_worker_that_never_answers_is_etimedout_and_never_eagain(folder: Path) -> None:
    flags = {"gateway": ("--read-deadline", "1")}
    with Cluster.of_folder(folder, mounts=1, short_circuit=False, extra=flags) as cluster:
        mounted = cluster.mount / "file"
        assert mounted.stat().st_size == 48 * MIB
        cluster.pause("worker-0")
        try:
            with pytest.raises(OSError, check=lambda e: e.errno == errno.ETIMEDOUT):
                mounted.read_bytes()
        finally:
            cluster.resume("worker-0")


def gateway_pid(cluster: Cluster) -> int:
    """The process that serves the mount."""
    pid = cluster.local.children["gateway"].pid
    assert pid is not None
    return pid


def is_mounted(directory: Path) -> bool:
    """Without touching it."""
    return f" {directory} " in Path("/proc/self/mountinfo").read_text()


def test_a_busy_mount_is_served_until_the_last_file_is_closed_and_then_goes(folder: Path) -> None:
    flags = {"gateway": ("--busy-timeout", "60")}
    with Cluster.of_folder(folder, mounts=1, short_circuit=False, extra=flags) as cluster:
        fd = os.open(cluster.mount / "file", os.O_RDONLY)
        try:
            os.kill(gateway_pid(cluster), signal.SIGTERM)
            eventually(lambda: "mount_is_busy" in cluster.log("gateway"), what="a word about the open file")
            assert os.pread(fd, 4096, 40 * MIB) == (folder / "file").read_bytes()[40 * MIB : 40 * MIB + 4096]
            assert is_mounted(cluster.mount)
        finally:
            os.close(fd)
        eventually(lambda: not is_mounted(cluster.mount), what="the unmount")
        eventually(lambda: cluster.local.children["gateway"].returncode == 0, what="a clean end")


@pytest.mark.parametrize("again", [False, True])
def test_a_mount_that_stays_busy_is_taken_away_after_its_time_or_a_second_signal(folder: Path, again: bool) -> None:
    flags = {"gateway": ("--busy-timeout", "60" if again else "1")}
    with Cluster.of_folder(folder, mounts=1, short_circuit=False, extra=flags) as cluster:
        fd = os.open(cluster.mount / "file", os.O_RDONLY)
        try:
            os.kill(gateway_pid(cluster), signal.SIGTERM)
            eventually(lambda: "mount_is_busy" in cluster.log("gateway"), what="a word about the open file")
            if again:
                os.kill(gateway_pid(cluster), signal.SIGTERM)
            eventually(lambda: cluster.local.children["gateway"].returncode == 0, what="the end")
            assert not is_mounted(cluster.mount)
            with pytest.raises(OSError, check=lambda e: e.errno in (errno.ENOTCONN, errno.ECONNABORTED)):
                os.pread(fd, 4096, 40 * MIB)
        finally:
            os.close(fd)


def test_somebody_elses_unmount_ends_the_gateway(cluster: Cluster) -> None:
    subprocess.run(["umount", cluster.mount], timeout=TIMEOUT_S, check=True)
    eventually(lambda: cluster.local.children["gateway"].returncode == 0, what="the end")
