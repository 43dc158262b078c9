"""``forebay://`` in the processes of data loaders: forked and spawned."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator
from typing import Literal

import pytest
from torch.utils.data import DataLoader, Dataset

from forebay.fsspec import ForebayFileSystem
from forebay.testing.cluster import Cluster
from tests.integration.fsspec.kit import folder_cluster

pytestmark = [pytest.mark.slow]
BIG = random.Random(3).randbytes(9_000_001)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One file, one worker."""
    source = tmp_path_factory.mktemp("processes") / "source"
    source.mkdir()
    (source / "big.bin").write_bytes(BIG)
    with folder_cluster(source) as cluster:
        yield cluster


def _digest_in_child(fs: ForebayFileSystem, answers: multiprocessing.Queue[tuple[int, int]]) -> None:
    data = fs.cat("/big.bin")
    with fs.open("/big.bin") as file:
        file.seek(1_000)
        answers.put((os.getpid(), hash(data == BIG and file.read(10) == BIG[1_000:1_010])))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_every_kind_read_with_the_file_system_of_their_parent(
    cluster: Cluster, method: Literal["fork", "spawn"]
) -> None:
    fs = ForebayFileSystem(cluster.registry, skip_instance_cache=True)
    assert fs.cat_file("/big.bin", end=3) == BIG[:3]  # the parent's client is running
    context = multiprocessing.get_context("fork") if method == "fork" else multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[tuple[int, int]] = context.Queue()

    children = [context.Process(target=_digest_in_child, args=(fs, answers)) for _ in range(2)]
    for child in children:
        child.start()
    said = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join(30)

    assert {right for _, right in said} == {1}
    assert os.getpid() not in {pid for pid, _ in said}
    assert [child.exitcode for child in children] == [0, 0]
    assert fs.cat_file("/big.bin", end=3) == BIG[:3]
    fs.close()


class Slices(Dataset):
    """Parts of the file, read by a file system that was made, and used, in the parent."""

    def __init__(self, fs: ForebayFileSystem) -> None:
        self._fs = fs

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> tuple[bool, int]:
        begin = index * 1_000_000
        return self._fs.cat_file("/big.bin", begin, begin + 1_000) == BIG[begin : begin + 1_000], os.getpid()


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_of_data_loaders_read_with_the_file_system_of_the_training(
    cluster: Cluster, method: str, workers: int
) -> None:
    fs = ForebayFileSystem(cluster.registry, skip_instance_cache=True)
    assert fs.cat_file("/big.bin", end=3) == BIG[:3]
    loader = DataLoader(
        Slices(fs), batch_size=3, num_workers=workers, multiprocessing_context=method, collate_fn=list, timeout=90
    )

    for _ in range(2):  # each epoch has workers of its own
        found = [item for batch in loader for item in batch]

        assert [right for right, _ in found] == [True] * 9
        assert len({pid for _, pid in found} - {os.getpid()}) == workers
    fs.close()
