"""Real training input from a cluster, through a mount and the SDK: each sample once, losses, errors."""

from __future__ import annotations

import io
import random
import struct
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from forebay.data import Files, FolderFiles, MountFiles, SdkFiles
from forebay.data.tar import KEY
from forebay.data.tfrecord import frame
from forebay.testing.cluster import Cluster
from forebay.torch import FileDataset, ShardDataset

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
INPUTS, SHARDS, RECORDS, EPOCHS = 64, 6, 200, 2
NAMES = [f"part-{n}.tfrecord" for n in range(SHARDS)]
TAR_SHARDS, TAR_SAMPLES, PICTURE_BYTES = 5, 30, 20_000
TARS = [f"shard-{n}.tar" for n in range(TAR_SHARDS)]
FILES = [f"single-{n}" for n in range(12)]
BATCH, TIMEOUT_S = 8, 120


def write_tars(folder: Path) -> None:
    """Samples whose key is their number."""
    for shard, name in enumerate(TARS):
        with tarfile.open(folder / name, "w") as tar:
            for number in range(shard * TAR_SAMPLES, (shard + 1) * TAR_SAMPLES):
                member = tarfile.TarInfo(f"{number:04}.bin")
                member.size = PICTURE_BYTES
                tar.addfile(member, io.BytesIO(random.Random(number).randbytes(PICTURE_BYTES)))


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
    write_tars(folder)
    for name in FILES:
        (folder / name).write_bytes(random.Random(name).randbytes(300_000))
    data = bytearray((folder / NAMES[0]).read_bytes())
    (folder / "short.tfrecord").write_bytes(data[: len(data) // 3])
    data[len(data) // 2] ^= 1
    (folder / "flipped.tfrecord").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def cluster(source: Path) -> Iterator[Cluster]:
    """Two workers, one mount."""
    with Cluster.of_folder(source, workers=2, mounts=1) as cluster:
        yield cluster


@pytest.fixture(params=["mount", "sdk"])
def files(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Files]:
    """Both ways to read the cluster."""
    if request.param == "mount":
        yield MountFiles(cluster.mount)
        return
    sdk = SdkFiles(cluster.client_options(short_circuit_dirs=()))
    yield sdk
    sdk.close()


def tar_numbers(batches: Any) -> list[int]:
    """Of samples, each checked."""
    found = []
    for sample in (sample for batch in batches for sample in batch):
        number = int(sample[KEY])
        assert sample["bin"] == random.Random(number).randbytes(PICTURE_BYTES)
        found.append(number)
    return found


def loaded(data: Any, **given: Any) -> DataLoader:
    """A loader that gives lists, and does not wait for ever."""
    timeout = TIMEOUT_S if given.get("num_workers") else 0
    return DataLoader(data, batch_size=BATCH, collate_fn=list, timeout=timeout, **given)


def tars(files: Files, **given: Any) -> ShardDataset:
    return ShardDataset(files, TARS, format="tar", seed=5, window=7, **given)


def test_ranks_and_their_workers_read_every_sample_of_tar_shards_once_in_each_epoch(files: Files) -> None:
    ranks = [tars(files, rank=rank, world_size=2) for rank in range(2)]
    orders = []
    for epoch in range(2):
        found: list[int] = []
        for data in ranks:
            data.set_epoch(epoch)
            found += tar_numbers(loaded(data, num_workers=2))
        orders.append(found)

    assert [Counter(order) for order in orders] == [Counter(range(TAR_SHARDS * TAR_SAMPLES))] * 2
    assert orders[0] != orders[1]


def test_ranks_and_their_workers_read_every_record_of_tfrecord_shards_once(source: Path, files: Files) -> None:
    expected = Counter(bytes(record) for record in ShardDataset(FolderFiles(source), NAMES))
    found: Counter[bytes] = Counter()

    for rank in range(2):
        data = ShardDataset(files, NAMES, seed=5, rank=rank, world_size=2)
        found.update(record for batch in loaded(data, num_workers=2) for record in batch)

    assert expected.total() == SHARDS * RECORDS
    assert found == expected


@pytest.mark.parametrize("batches", [1, 5])
def test_a_job_goes_on_in_mid_epoch_with_the_next_sample(files: Files, batches: int) -> None:
    whole = tar_numbers(loaded(tars(files)))
    data = tars(files)
    begun = tar_numbers(batch for _, batch in zip(range(batches), loaded(data), strict=False))
    state = data.state_dict()

    other, many = tars(files), tars(files)
    other.load_state_dict(state)
    many.resume_after(epoch=0, batches=2 * batches, batch_size=BATCH, num_workers=2)

    assert begun + tar_numbers(loaded(other)) == whole
    assert (
        tar_numbers(loaded(many, num_workers=2))
        == tar_numbers(loaded(tars(files), num_workers=2))[2 * batches * BATCH :]
    )


def test_single_files_are_shared_by_ranks_and_workers_and_are_what_they_were(source: Path, files: Files) -> None:
    data, found = FileDataset(files, FILES), list[bytes]()

    for rank in range(2):
        sampler = DistributedSampler(data, num_replicas=2, rank=rank, seed=3)
        found += [body for batch in loaded(data, sampler=sampler, num_workers=2) for body in batch]

    assert Counter(found) == Counter((source / name).read_bytes() for name in FILES)


def test_workers_that_are_spawned_read_as_forked_ones_do(cluster: Cluster) -> None:
    sdk = SdkFiles(cluster.client_options())
    tar_numbers(loaded(tars(sdk)))  # the client of this process is at work
    loader = loaded(tars(sdk), num_workers=1, multiprocessing_context="spawn")

    found = tar_numbers(loader)
    sdk.close()

    assert sorted(found) == list(range(TAR_SHARDS * TAR_SAMPLES))


BAD = {
    "flipped": (["flipped.tfrecord"], r"flipped\.tfrecord: .*checksum.* at byte \d+"),
    "short": (["short.tfrecord"], r"short\.tfrecord: the file ends inside .* at byte \d+"),
    "gone": ([*NAMES[:2], "gone"], r"1 of 3 files of the hint are not there: .*gone"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_one_clear_error_in_the_training_process(files: Files, bad: str) -> None:
    shards, said = BAD[bad]

    with pytest.raises(Exception, match=said):
        list(loaded(ShardDataset(files, shards, is_shuffled=False)))


def test_an_error_of_a_worker_of_the_loader_is_one_of_the_training_process(files: Files) -> None:
    shards, said = BAD["gone"]

    with pytest.raises(Exception, match=said):
        list(loaded(ShardDataset(files, shards, is_shuffled=False), num_workers=1))


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
