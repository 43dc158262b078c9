"""A small real training run: through a mount and through the SDK it is equal, bit for bit, to one from local disk."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from forebay.data import Files, FolderFiles, MountFiles, SdkFiles
from forebay.data.tfrecord import frame
from forebay.testing.cluster import Cluster
from forebay.torch import ShardDataset

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
INPUTS, SHARDS, RECORDS, EPOCHS = 64, 6, 200, 2
NAMES = [f"part-{n}.tfrecord" for n in range(SHARDS)]


def write_shards(folder: Path) -> None:
    """Points with the side of a plane that they lie on."""
    folder.mkdir()
    rng = random.Random(1)
    for name in NAMES:
        records = []
        for _ in range(RECORDS):
            point = [rng.gauss(0, 1) for _ in range(INPUTS)]
            records.append(frame(struct.pack(f"<{INPUTS}ff", *point, float(sum(point[:8]) > 0))))
        (folder / name).write_bytes(b"".join(records))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards on local disk."""
    folder = tmp_path_factory.mktemp("training") / "source"
    write_shards(folder)
    return folder


@pytest.fixture(scope="module")
def cluster(source: Path) -> Iterator[Cluster]:
    """Two workers, one mount."""
    with Cluster.of_folder(source, workers=2, mounts=1) as cluster:
        yield cluster


def decode(record: bytes) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.frombuffer(bytearray(record), dtype=torch.float32)
    return numbers[:-1], numbers[-1:]


def losses(files: Files) -> list[float]:
    """The loss after each batch of a small network trained from a fixed start."""
    torch.manual_seed(3)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(INPUTS, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    step, judge = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), torch.nn.BCEWithLogitsLoss()
    found, data = [], ShardDataset(files, NAMES, seed=11, window=64, decode=decode)
    for epoch in range(EPOCHS):
        data.set_epoch(epoch)
        for points, sides in DataLoader(data, batch_size=32):
            step.zero_grad()
            loss = judge(model(points), sides)
            loss.backward()
            step.step()
            found.append(float(loss.detach()))
    return found


def test_the_losses_through_the_mount_and_the_sdk_are_those_from_local_disk(source: Path, cluster: Cluster) -> None:
    local = losses(FolderFiles(source))
    sdk = SdkFiles(cluster.client_options())

    through_mount, through_sdk = losses(MountFiles(cluster.mount)), losses(sdk)
    sdk.close()

    assert len(local) == EPOCHS * -(-SHARDS * RECORDS // 32)
    assert local[-1] < 0.8 * local[0]
    assert through_mount == local
    assert through_sdk == local
