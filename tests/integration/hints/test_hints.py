"""Order hints against real workers: what is named is fetched before it is asked for, what was jumped over is not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forebay.client import SyncClient
from forebay.errors import InvalidRequest, NotFound
from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.slow]
MIB = 1 << 20
FILES, FILE_BYTES = 40, 4 * MIB
NAMES = [f"/f{n:02}" for n in range(FILES)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Two workers whose tiers together hold 60 % of the files."""
    source = tmp_path / "source"
    source.mkdir()
    for name in NAMES:
        (source / name[1:]).write_bytes(random.Random(name).randbytes(FILE_BYTES))
    room = FILES * FILE_BYTES * 6 // 10 // 2
    with Cluster.of_folder(source, workers=2, worker_mem_bytes=room, extra=FLAGS) as cluster:
        yield cluster


FLAGS = {"worker": ("--hint-bytes", str(16 * MIB))}


def total(cluster: Cluster, name: str) -> float:
    """A metric of all workers."""
    workers = (f"worker-{n}" for n in range(cluster.local.spec.workers))
    return sum(v for w in workers for k, v in cluster.metrics(w).items() if k.startswith(name))


def is_ahead(cluster: Cluster) -> bool:
    """Whether nothing is being fetched by hints."""
    return not any(cluster.metrics(w)["forebay_worker_prefetches"] for w in ("worker-0", "worker-1"))


@contextmanager
def slow_cluster(folder: Path, names: list[str], bytes_per_s: str) -> Iterator[Cluster]:
    """One worker that gets so much from the under store."""
    source = folder / "source"
    source.mkdir()
    for name in names:
        (source / name[1:]).write_bytes(random.Random(name).randbytes(FILE_BYTES))
    slow = {"worker": ("--hint-bytes", str(16 * MIB), "--ufs-bytes-per-s", bytes_per_s)}
    with Cluster.of_folder(source, extra=slow) as cluster:
        yield cluster


def remote(cluster: Cluster) -> SyncClient:
    """A client that reads nothing in place and nothing ahead."""
    return SyncClient(cluster.client_options(short_circuit_dirs=(), readahead_bytes=0))


def read_all(client: SyncClient, names: list[str]) -> None:
    for name in names:
        with client.open(name) as reader:
            assert reader.read(0, FILE_BYTES) == random.Random(name).randbytes(FILE_BYTES)


def test_what_a_hint_names_is_here_before_it_is_asked_for_up_to_the_budget(cluster: Cluster) -> None:
    with remote(cluster) as client:
        named = client.hint(NAMES, epoch=0, seed=1)
        eventually(lambda: total(cluster, 'forebay_worker_prefetches_total{outcome="ok"}') >= 6, timeout_s=30)
        before = total(cluster, "forebay_worker_filled_bytes_total")

        read_all(client, NAMES[:3])

    assert named == FILES
    assert before <= 2 * (16 + 4) * MIB
    served = total(cluster, 'forebay_worker_served_bytes_total{source="mem"}')
    assert served == 3 * FILE_BYTES


def test_misses_of_a_cache_smaller_than_the_dataset_become_prefetched(cluster: Cluster) -> None:
    found, fetched = [], []
    with remote(cluster) as client:
        for epoch in range(3):
            order = random.Random(epoch).sample(NAMES, FILES)
            client.hint(order, epoch=epoch)
            for name in order:
                eventually(lambda: is_ahead(cluster))  # as long as a training step takes
                read_all(client, [name])
            found.append(total(cluster, 'forebay_worker_served_bytes_total{source="mem"}'))
            fetched.append(total(cluster, "forebay_ufs_read_bytes_total"))

    last_epoch = (found[2] - found[1]) / (FILES * FILE_BYTES)
    assert last_epoch > 0.75  # without hints it is what the cache holds, 0.6 at most
    assert 0.3 < (fetched[2] - fetched[1]) / (FILES * FILE_BYTES) < 0.5  # what the cache lacks is 0.4


@pytest.mark.parametrize("is_hinted", [True, False])
def test_what_is_about_to_be_read_does_not_go_for_what_is_not(tmp_path: Path, is_hinted: bool) -> None:
    source, ours, strangers = tmp_path / "source", NAMES[:6], NAMES[6:24]
    source.mkdir()
    for name in (*ours, *strangers):
        (source / name[1:]).write_bytes(random.Random(name).randbytes(FILE_BYTES))
    flags = {"worker": ("--policy", "lru", "--hint-bytes", str(16 * MIB))}

    with Cluster.of_folder(source, worker_mem_bytes=10 * FILE_BYTES, extra=flags) as cluster, remote(cluster) as client:
        read_all(client, ours)
        if is_hinted:
            client.hint(ours, epoch=1)
        read_all(client, strangers)
        before = total(cluster, "forebay_ufs_read_bytes_total")
        read_all(client, ours)
        again = total(cluster, "forebay_ufs_read_bytes_total") - before

    assert again == (0 if is_hinted else len(ours) * FILE_BYTES)  # what was used longest ago goes, but for the hint


def test_what_a_reader_jumps_over_is_given_up(tmp_path: Path) -> None:
    with slow_cluster(tmp_path, NAMES[:20], "4MB") as cluster, remote(cluster) as client:
        client.hint(NAMES[:20])
        eventually(lambda: cluster.metrics("worker-0")["forebay_worker_prefetches"] >= 3)

        with client.open(NAMES[15]) as reader:
            reader.read(0, 1000)

        cancelled = 'forebay_worker_prefetches_total{outcome="cancelled"}'
        eventually(lambda: cluster.metrics("worker-0").get(cancelled, 0) >= 3)


def test_what_a_reader_comes_to_while_it_is_fetched_is_fetched_once(tmp_path: Path) -> None:
    with slow_cluster(tmp_path, NAMES[:4], "8MB") as cluster, remote(cluster) as client:
        client.hint(NAMES[:4])
        eventually(lambda: cluster.metrics("worker-0")["forebay_worker_prefetches"] >= 3)

        read_all(client, NAMES[:4])

        filled = (
            v for k, v in cluster.metrics("worker-0").items() if k.startswith("forebay_worker_filled_bytes_total")
        )
        assert sum(filled) == 4 * FILE_BYTES
        outcomes = {k: v for k, v in cluster.metrics("worker-0").items() if "prefetches_total" in k and v}
        assert set(outcomes) <= {'forebay_worker_prefetches_total{outcome="ok"}'}


def test_files_that_are_not_there_are_named_and_nobody_is_told_anything(cluster: Cluster) -> None:
    with remote(cluster) as client:
        with pytest.raises(NotFound, match="2 of 3 files of the hint are not there: /gone, /lost"):
            client.hint(["/gone", NAMES[0], "/lost"])
        with pytest.raises(InvalidRequest, match="is a directory"):
            client.hint(["/"])
        with pytest.raises(InvalidRequest, match="negative"):
            client.hint(NAMES, epoch=-1)

        assert total(cluster, "forebay_worker_hint_streams") == 0
