"""What a training's steps waited for, with real workers, loaders and mounts: the report accounts for it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from forebay.data import Files, MountFiles, SdkFiles
from forebay.data.tfrecord import frame
from forebay.steps import EpochReport, Steps, read_spans, report
from forebay.testing.cluster import Cluster
from forebay.torch import FileDataset, ShardDataset

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
SHARDS, RECORDS, RECORD_BYTES, BATCH = 6, 40, 100_000, 16
NAMES = [f"part-{n}.tfrecord" for n in range(SHARDS)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two workers that get 20 MB/s together from the under store, far below what everything else takes."""
    source = tmp_path / "source"
    source.mkdir()
    for name in NAMES:
        rng = random.Random(name)
        (source / name).write_bytes(b"".join(frame(rng.randbytes(RECORD_BYTES)) for _ in range(RECORDS)))
    slow = {"worker": ("--ufs-bytes-per-s", "10MB")}
    with Cluster.of_folder(source, workers=2, mounts=1, short_circuit=False, extra=slow) as cluster:
        yield cluster


def remote(cluster: Cluster) -> SdkFiles:
    """The SDK, which reads nothing in place."""
    return SdkFiles(cluster.client_options(short_circuit_dirs=()))


def trained(files: Files, folder: Path, *, workers: int = 0, epochs: int = 2) -> list[EpochReport]:
    """Epochs, the first of them cold."""
    data = ShardDataset(files, NAMES, window=1, piece_bytes=1 << 20)
    with Steps(folder) as steps:
        for epoch in range(epochs):
            data.set_epoch(epoch)
            loader = DataLoader(data, batch_size=BATCH, num_workers=workers)
            for _ in steps(loader, epoch=epoch, images=len):
                time.sleep(0.005)  # the accelerator computes
    return list(report(read_spans(folder)[0]).epochs)


def lost_s(epoch: EpochReport) -> dict[str, float]:
    """Seconds by cause."""
    return {lost.cause: lost.seconds for lost in epoch.lost}


def check_sums(epochs: list[EpochReport]) -> None:
    """What is attributed adds up to what was measured, and to the images/s lost."""
    for epoch in epochs:
        attributed_s = sum(s for cause, s in lost_s(epoch).items() if cause != "unknown")
        assert epoch.images == SHARDS * RECORDS
        assert attributed_s == pytest.approx(epoch.waited_s, rel=0.1)
        lost = sum(one.images_per_s for one in epoch.lost)
        assert epoch.images_per_s + lost == pytest.approx(epoch.images_per_s_without_waits)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cold_epoch_through_the_sdk_waits_for_the_under_store_and_a_warm_one_does_not(
    cluster: Cluster, tmp_path: Path, workers: int
) -> None:
    files = remote(cluster)

    cold, warm = trained(files, tmp_path / "steps", workers=workers)
    files.close()

    check_sums([cold, warm])
    assert lost_s(cold)["ufs"] > 0.5 * cold.waited_s
    assert {slow.worker for slow in cold.slow} <= {"worker-0", "worker-1"}
    assert {slow.path for slow in cold.slow} <= {f"/{name}" for name in NAMES}
    assert cold.slow
    assert all(len(slow.block) == 32 for slow in cold.slow)
    assert warm.slow == ()
    assert lost_s(warm)["remote"] > 0
    assert warm.images_per_s > cold.images_per_s


def test_a_cold_epoch_through_the_mount_is_told_apart_by_what_its_gateway_says(
    cluster: Cluster, tmp_path: Path
) -> None:
    cold, *warm = trained(MountFiles(cluster.mount), tmp_path / "steps", epochs=4)

    check_sums([cold, *warm])
    assert lost_s(cold)["ufs"] > 0.5 * cold.waited_s
    assert lost_s(cold)["fuse"] > 0
    assert {slow.path for slow in cold.slow} <= {f"/{name}" for name in NAMES}
    assert all(lost_s(epoch)["ufs"] == 0 for epoch in warm)
    assert any(lost_s(epoch)["local"] > 0 for epoch in warm)  # the page cache, which a busy kernel may have emptied


def test_single_files_are_accounted_for_as_well(cluster: Cluster, tmp_path: Path) -> None:
    files = remote(cluster)
    loader = DataLoader(FileDataset(files, NAMES, decode=len), batch_size=2)

    with Steps(tmp_path / "steps") as steps:
        sizes = [int(n) for batch in steps(loader, images=len) for n in batch]
    files.close()
    found = report(read_spans(tmp_path / "steps")[0]).epochs[0]

    assert len(sizes) == SHARDS
    assert found.explained > 0.9
    assert lost_s(found)["ufs"] > 0.5 * found.waited_s
