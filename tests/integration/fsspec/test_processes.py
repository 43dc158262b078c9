"""``forebay://`` in the processes of data loaders: forked and spawned."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator
from typing import Literal

import pytest

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
