"""Real processes killed for real under a reader: no error, no wrong byte, nothing left behind."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from forebay.cli.cluster import detach_dead
from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.slow, pytest.mark.fuse]
MIB = 1 << 20
BLOCK_BYTES = 4 * MIB
PIECE = 256 << 10
FLAGS = {"master": ("--block-size", str(BLOCK_BYTES))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A source of a few files, each many blocks long."""
    source, rng = tmp_path / "source", random.Random(3)
    source.mkdir()
    for number in range(3):
        (source / f"file-{number}").write_bytes(rng.randbytes(10 * BLOCK_BYTES + 17))
    return source


def sha256(path: Path) -> str:
    """By another program, with a watchdog."""
    done = subprocess.run(["sha256sum", path], capture_output=True, text=True, timeout=90, check=True)
    return done.stdout.split()[0]


def expected(folder: Path) -> dict[str, str]:
    """SHA-256 of the source's files."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("short_circuit", [False, True])
def test_a_worker_killed_in_mid_read_costs_the_reader_nothing(folder: Path, short_circuit: bool) -> None:
    with Cluster.of_folder(folder, mounts=1, workers=2, extra=FLAGS, short_circuit=short_circuit) as cluster:
        # given a reader in the middle of a file whose blocks are spread over two workers
        digest = hashlib.sha256()
        with (cluster.mount / "file-0").open("rb", buffering=0) as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                # when one of them dies
                if file.tell() == 8 * PIECE:
                    cluster.kill("worker-0")
        # then the reader has the right bytes, and so do later ones
        assert digest.hexdigest() == expected(folder)["file-0"]
        assert {p.name: sha256(p) for p in sorted(cluster.mount.iterdir())} == expected(folder)


def test_a_worker_that_comes_back_serves_again_and_keeps_what_it_had(folder: Path) -> None:
    with Cluster.of_folder(folder, mounts=1, extra=FLAGS, short_circuit=False) as cluster:
        assert sha256(cluster.mount / "file-0") == expected(folder)["file-0"]
        tier = cluster.local.places.tier(0)
        eventually(lambda: len(list(tier.rglob("*.blk"))) >= 10, what="sealed blocks")
        cluster.kill("worker-0")
        cluster.restart("worker-0")
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")
        assert sha256(cluster.mount / "file-0") == expected(folder)["file-0"]
        served = cluster.metrics("worker-0")
        assert served.get('forebay_worker_served_bytes_total{source="mem"}', 0) > 9 * BLOCK_BYTES
        assert not list(tier.rglob("*.part"))


def test_open_files_go_on_without_a_master_and_names_come_back_with_it(folder: Path) -> None:
    with Cluster.of_folder(folder, mounts=1, extra=FLAGS) as cluster:
        digest = hashlib.sha256()
        with (cluster.mount / "file-1").open("rb", buffering=0) as file:
            digest.update(file.read(PIECE))
            cluster.kill("master")
            while piece := file.read(PIECE):
                digest.update(piece)
        assert digest.hexdigest() == expected(folder)["file-1"]
        cluster.restart("master")
        assert sha256(cluster.mount / "file-2") == expected(folder)["file-2"]


def test_a_master_that_was_killed_keeps_its_mounts_and_its_epoch(folder: Path) -> None:
    with Cluster.of_folder(folder, extra=FLAGS) as cluster:
        before = cluster.http("master", "/v1/mounts")
        epoch = int(cluster.status("worker-0")["detail"]["map_epoch"])
        cluster.kill("master")
        cluster.restart("master")
        assert cluster.http("master", "/v1/mounts") == before
        eventually(lambda: int(cluster.status("worker-0")["detail"]["map_epoch"]) >= epoch, what="the epoch")


def test_a_mount_whose_gateway_was_killed_is_recovered_by_the_next_one(folder: Path) -> None:
    with Cluster.of_folder(folder, mounts=1, extra=FLAGS) as cluster:
        assert len(os.listdir(cluster.mount)) == 3
        cluster.kill("gateway")
        with pytest.raises(OSError, match=r"endpoint|abort"):
            os.listdir(cluster.mount)
        cluster.restart("gateway")
        assert sha256(cluster.mount / "file-0") == expected(folder)["file-0"]
    assert not detach_dead(cluster.mount)


def test_a_paused_worker_delays_but_does_not_fail_a_read(folder: Path) -> None:
    with Cluster.of_folder(folder, mounts=1, workers=2, extra=FLAGS, short_circuit=False) as cluster:
        assert len(os.listdir(cluster.mount)) == 3
        cluster.pause("worker-1")
        began = time.monotonic()
        try:
            assert sha256(cluster.mount / "file-2") == expected(folder)["file-2"]
        finally:
            cluster.resume("worker-1")
        assert time.monotonic() - began < 60


def test_gauges_are_zero_at_rest(folder: Path) -> None:
    with Cluster.of_folder(folder, mounts=1, workers=2, extra=FLAGS, short_circuit=False) as cluster:
        for path in sorted(cluster.mount.iterdir()):
            sha256(path)

        def at_rest() -> bool:
            gateway, worker = cluster.metrics("gateway"), cluster.metrics("worker-0")
            return (
                gateway["forebay_fuse_handles"] == 0
                and gateway["forebay_fuse_pending"] == 0
                and gateway["forebay_client_open_readers"] == 0
                and worker["forebay_worker_in_flight"] == 0
                and worker["forebay_worker_fills_in_flight"] == 0
            )

        eventually(at_rest, what="gauges at zero")
