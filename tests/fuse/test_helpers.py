"""READs that data helpers answer, on a real mount: the right bytes, and none lost when a helper or all are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
MIB = 1 << 20
BLOCK_BYTES = 4 * MIB
TIMEOUT_S = 60
HELPED = 'forebay_fuse_read_bytes_total{source="helper"}'
FLAGS = {"master": ("--block-size", str(BLOCK_BYTES)), "gateway": ("--threads", "2", "--no-passthrough")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of several blocks."""
    source = tmp_path_factory.mktemp("helpers") / "source"
    source.mkdir()
    (source / "file").write_bytes(random.Random(3).randbytes(9 * BLOCK_BYTES + 12_345))
    return source


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    """A gateway with two helpers and a keeper; the file's blocks lie whole on this host."""
    with Cluster.of_folder(folder, mounts=1, extra=FLAGS, keeper=True) as cluster:
        assert digest(cluster.mount / "file") == digest(folder / "file")
        tier = cluster.local.places.tier(0)
        eventually(lambda: len(list(tier.rglob("*.blk"))) == 10, what="whole blocks", timeout_s=TIMEOUT_S)
        eventually(lambda: cluster.metrics("gateway")["forebay_fuse_helpers"] == 2, what="helpers")
        yield cluster


def digest(path: Path) -> str:
    """SHA-256 of a file, read by a process of its own: it may wait for one that the test has stopped."""
    done = subprocess.run(["sha256sum", path], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return done.stdout.split()[0]


def drop_pages(path: Path) -> None:
    """The kernel forgets the file's bytes."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def gateway_of(cluster: Cluster) -> int:
    """The guard's child."""
    guard = cluster.local.children["gateway"].pid
    assert guard is not None
    (gateway,) = children_of(guard)
    return gateway


def children_of(pid: int) -> list[int]:
    """Direct children of a process."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start_reader(cluster: Cluster) -> subprocess.Popen[str]:
    """Reads the file once more, from helpers."""
    drop_pages(cluster.mount / "file")
    return subprocess.Popen(["sha256sum", str(cluster.mount / "file")], stdout=subprocess.PIPE, text=True)


def said(reader: subprocess.Popen[str]) -> str:
    """What it has read, as SHA-256."""
    text, _ = reader.communicate(timeout=TIMEOUT_S)
    assert reader.returncode == 0
    return text.split()[0]


def stop_helpers(cluster: Cluster) -> list[int]:
    """They take READs and answer none."""
    pids = children_of(gateway_of(cluster))
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return pids


def test_helpers_answer_reads_of_local_blocks_with_the_right_bytes(cluster: Cluster, folder: Path) -> None:
    before = cluster.metrics("gateway").get(HELPED, 0.0)
    assert said(start_reader(cluster)) == digest(folder / "file")
    found = cluster.metrics("gateway")
    assert found[HELPED] - before == (folder / "file").stat().st_size
    assert found["forebay_fuse_helper_reads"] == 0
    assert found["forebay_fuse_helper_deaths_total"] == 0


def test_reads_in_the_hands_of_a_helper_that_is_killed_are_answered(cluster: Cluster, folder: Path) -> None:
    # given a reader whose READs two helpers have, which do not answer
    pids = stop_helpers(cluster)
    reader = start_reader(cluster)
    eventually(lambda: cluster.metrics("gateway")["forebay_fuse_helper_reads"] > 0, what="READs in hand")
    # when they are killed
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    # then it has the right bytes, and there are two others
    assert said(reader) == digest(folder / "file")
    eventually(lambda: cluster.metrics("gateway")["forebay_fuse_helpers"] == 2, what="new helpers")
    found = cluster.metrics("gateway")
    assert found["forebay_fuse_helper_deaths_total"] == 2
    assert found["forebay_fuse_helper_reads"] == 0
    assert not set(pids) & set(children_of(gateway_of(cluster)))


def test_reads_in_helpers_hands_outlive_the_gateway_and_the_helpers_do_not(cluster: Cluster, folder: Path) -> None:
    # given READs that helpers have
    pids = stop_helpers(cluster)
    reader = start_reader(cluster)
    eventually(lambda: cluster.metrics("gateway")["forebay_fuse_helper_reads"] > 0, what="READs in hand")
    # when the gateway is killed
    gateway = gateway_of(cluster)
    os.kill(gateway, signal.SIGKILL)
    # then its successor answers them
    assert said(reader) == digest(folder / "file")
    assert gateway_of(cluster) != gateway
    # and they are gone, and others there
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), what="their end")
    eventually(lambda: cluster.metrics("gateway")["forebay_fuse_helpers"] == 2, what="new helpers")
