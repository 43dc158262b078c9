"""Passthrough on real mounts: which way a file is read, what the switches change, and that bytes are always right."""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forebay.cli.children import get
from forebay.cli.cluster import LocalCluster
from forebay.testing.cluster import eventually, parse_metrics
from tests.fuse.conftest import BLOCK_BYTES, file_cluster

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
SIZE = 3 << 20


@contextmanager
def mounted(tmp_path: Path, *gateway: str) -> Iterator[tuple[LocalCluster, Path, dict[str, bytes]]]:
    """A cluster over a few files, mounted with flags: (cluster, mount, what is in the files)."""
    source, mount = tmp_path / "source", tmp_path / "mount"
    source.mkdir()
    mount.mkdir()
    rng = random.Random(3)
    files = {"one": rng.randbytes(SIZE), "small": rng.randbytes(100_000), "several": rng.randbytes(2 * BLOCK_BYTES)}
    for name, data in files.items():
        (source / name).write_bytes(data)
    with file_cluster(source, mount, *gateway) as cluster:
        yield cluster, mount, files


def metric(cluster: LocalCluster, name: str) -> float:
    """A sample of the gateway's metrics; 0 if it is not there."""
    child = next(c for n, c in cluster.children.items() if n.startswith("gateway"))
    reply = get(child.spec.port, "/metrics", timeout_s=5)
    assert reply is not None
    return parse_metrics(reply[1]).get(name, 0.0)


def opens(cluster: LocalCluster, mode: str) -> float:
    """Files opened in a mode."""
    return metric(cluster, f'forebay_fuse_opens_total{{mode="{mode}"}}')


def reads(cluster: LocalCluster) -> float:
    """READ requests."""
    return metric(cluster, 'forebay_fuse_requests_total{op="read"}')


def drop_pages(path: Path) -> None:
    """Takes the pages of a file out of the kernel's cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def test_a_small_file_passes_through_at_its_first_open_and_no_read_comes(tmp_path: Path) -> None:
    with mounted(tmp_path) as (cluster, mount, files):
        for name in ("one", "small"):
            assert (mount / name).read_bytes() == files[name]
            with (mount / name).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                assert bytes(mapped) == files[name]
        assert opens(cluster, "passthrough") == 4
        assert reads(cluster) == 0
        assert (mount / "several").read_bytes() == files["several"]
        assert opens(cluster, "cached") == 1
        assert reads(cluster) > 0
        eventually(lambda: metric(cluster, "forebay_fuse_backing_files") == 0, what="no backing file left")


def test_a_file_that_becomes_whole_while_it_is_open_passes_through_after_its_last_close(tmp_path: Path) -> None:
    with mounted(tmp_path, "--small-file", "0") as (cluster, mount, files):
        with (mount / "one").open("rb") as file:
            assert file.read() == files["one"]
            # the block is here by now, but this inode is open cached
            with (mount / "one").open("rb") as again:
                assert again.read() == files["one"]
            assert opens(cluster, "cached") == 2
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                file.close()
                # the mapping alone holds it: still cached
                assert (mount / "one").read_bytes() == files["one"] == bytes(mapped)
                assert opens(cluster, "passthrough") == 0

        def passes() -> bool:
            assert (mount / "one").read_bytes() == files["one"]
            return opens(cluster, "passthrough") > 0

        eventually(passes, what="a passed through open")


def test_a_read_of_a_passed_through_file_is_served(tmp_path: Path) -> None:
    with mounted(tmp_path) as (cluster, mount, files), (mount / "one").open("rb") as file:
        assert opens(cluster, "passthrough") == 1
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        assert file.read() == files["one"]


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (("--no-passthrough",), "cached"),
        (("--direct-io",), "direct"),
        (("--no-kernel-cache", "--no-passthrough"), "cached"),
    ],
)
def test_each_switch_changes_how_files_are_opened(tmp_path: Path, flags: tuple[str, ...], mode: str) -> None:
    with mounted(tmp_path, *flags) as (cluster, mount, files):
        counts = []
        for _ in range(2):
            assert (mount / "one").read_bytes() == files["one"]
            counts.append(reads(cluster))
        assert opens(cluster, mode) == 2
        assert opens(cluster, "passthrough") == 0
        # the second epoch comes from the page cache, if that is kept
        assert (counts[1] > counts[0] > 0) == (flags != ("--no-passthrough",))


@pytest.mark.parametrize("splice", [True, False])
def test_the_switch_splice_decides_how_blocks_in_memory_reach_the_kernel(tmp_path: Path, splice: bool) -> None:
    flag = "--splice" if splice else "--no-splice"
    with mounted(tmp_path, "--no-passthrough", flag) as (cluster, mount, files):
        assert (mount / "one").read_bytes() == files["one"]  # fills the block
        drop_pages(mount / "one")
        assert (mount / "one").read_bytes() == files["one"]
        found = {s: metric(cluster, f'forebay_fuse_read_bytes_total{{source="{s}"}}') for s in ("spliced", "local")}
        assert (found["spliced"] > 0) == splice
        assert (found["local"] > 0) == (not splice)


def test_a_block_that_is_evicted_while_it_passes_through_keeps_its_bytes(tmp_path: Path) -> None:
    with mounted(tmp_path) as (cluster, mount, files), (mount / "one").open("rb") as file:
        assert opens(cluster, "passthrough") == 1
        for block in cluster.places.tier(0).rglob("*.blk"):
            block.unlink()
        assert file.read() == files["one"]
        with (mount / "one").open("rb") as again:
            assert again.read() == files["one"]
