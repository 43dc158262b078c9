"""What a master finds to have changed is seen through the mount at once, however long the kernel may keep names."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.client import SyncClient
from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
BLOCK_BYTES = 4 << 20
HOUR = ("--entry-timeout", "3600", "--attr-timeout", "3600", "--negative-timeout", "3600")
MASTER = ("--block-size", str(BLOCK_BYTES), "--max-age-s", "86400")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder in a folder."""
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    return folder


@pytest.fixture
def cluster(source: Path) -> Iterator[Cluster]:
    """Nobody looks at the source again by himself; the gateway watches."""
    with Cluster.of_folder(source, mounts=1, keeper=True, extra={"master": MASTER, "gateway": HOUR}) as cluster:
        eventually(lambda: feeds(cluster) > 0, what="a feed")
        yield cluster


def feeds(cluster: Cluster) -> float:
    """How often a feed was begun."""
    return cluster.metrics("gateway").get('forebay_fuse_changes_total{kind="reset"}', 0.0)


def sync(cluster: Cluster, path: str) -> None:
    """Has the master look at the source."""
    with SyncClient(cluster.client_options()) as client:
        client.sync(path, recursive=True)


def replace(path: Path, data: bytes) -> None:
    """A new file under the old name."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    os.replace(new, path)


def test_a_replaced_file_is_seen_after_a_sync_and_an_open_handle_keeps_its_version(
    source: Path, cluster: Cluster
) -> None:
    # given a file that is open, read and known to the kernel for an hour
    rng = random.Random(1)
    old, new = rng.randbytes(2 * BLOCK_BYTES + 5), rng.randbytes(2 * BLOCK_BYTES + 900)
    (source / "deep" / "file").write_bytes(old)
    sync(cluster, "/")
    seen = cluster.mount / "deep" / "file"
    assert os.listdir(seen.parent) == ["file"]  # a sync tells what is not as it was listed
    with seen.open("rb") as file:
        assert file.read() == old
        # when it is replaced, and nobody was told, then the old one is seen
        replace(source / "deep" / "file", new)
        assert seen.stat().st_size == len(old)
        # when the master looks
        sync(cluster, "/deep")
        # then the new version is seen, by stat and by open
        eventually(lambda: seen.stat().st_size == len(new), what="the new size")
        assert seen.read_bytes() == new
        # and the handle reads its own
        assert os.fstat(file.fileno()).st_size == len(old)
        assert os.pread(file.fileno(), len(old) + 1, 0) == old


def test_names_that_come_and_go_are_seen_after_a_sync(source: Path, cluster: Cluster) -> None:
    (source / "deep" / "first").write_text("1")
    sync(cluster, "/")
    deep = cluster.mount / "deep"
    assert os.listdir(deep) == ["first"]
    assert (deep / "first").read_text() == "1"
    assert not (deep / "second").exists()
    # a program that lives in the directory
    there = os.open(deep, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (source / "deep" / "first").unlink()
        (source / "deep" / "second").write_text("2")
        sync(cluster, "/deep")
        eventually(lambda: (deep / "second").exists() and not (deep / "first").exists(), what="the change")
        assert os.listdir(deep) == ["second"]
        assert os.readlink(f"/proc/self/fd/{there}") == str(deep)  # not "(deleted)"
        assert os.stat("second", dir_fd=there).st_size == 1
    finally:
        os.close(there)


def test_what_changed_while_the_master_was_away_is_seen_when_it_is_back(source: Path, cluster: Cluster) -> None:
    (source / "deep" / "file").write_text("old")
    sync(cluster, "/")
    seen, before = cluster.mount / "deep" / "file", feeds(cluster)
    assert seen.read_text() == "old"
    cluster.kill("master")
    replace(source / "deep" / "file", b"newer")
    cluster.restart("master")
    sync(cluster, "/deep")
    eventually(lambda: feeds(cluster) > before, what="a feed begun anew", timeout_s=60)
    eventually(lambda: seen.stat().st_size == 5, what="the new version", timeout_s=60)
    assert seen.read_text() == "newer"
