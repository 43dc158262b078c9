"""Order hints through an ordinary mount: a list of paths is written to ``.forebay/hints``."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from collections.abc import Iterator

import pytest

from forebay.data import MountFiles
from forebay.data.tfrecord import frame
from forebay.errors import NotFound
from forebay.testing.cluster import Cluster, eventually
from forebay.torch import ShardDataset

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
MIB = 1 << 20
FILES, FILE_BYTES = 10, 2 * MIB
NAMES = [f"f{n:02}" for n in range(FILES)]
BUDGET = 8 * MIB


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One worker that fetches four files ahead."""
    source = tmp_path_factory.mktemp("hints") / "source"
    source.mkdir()
    for name in NAMES:
        (source / name).write_bytes(frame(random.Random(name).randbytes(FILE_BYTES - 16)))
    flags = {"worker": ("--hint-bytes", str(BUDGET))}
    with Cluster.of_folder(source, mounts=1, extra=flags, short_circuit=False) as cluster:
        yield cluster


def prefetched(cluster: Cluster) -> float:
    """Blocks that were fetched because of a hint."""
    return sum(v for k, v in cluster.metrics("worker-0").items() if 'prefetches_total{outcome="ok"}' in k)


def streams(cluster: Cluster) -> float:
    """Orders that the worker knows."""
    return cluster.metrics("worker-0")["forebay_worker_hint_streams"]


def test_a_shell_tells_the_order_and_the_first_files_are_fetched(cluster: Cluster) -> None:
    hints = cluster.mount / ".forebay" / "hints"

    listed = "\n".join(NAMES[:4])
    subprocess.run(["sh", "-c", f'printf "# epoch=1 rank=5\n{listed}\n" > "{hints}"'], check=True)

    eventually(lambda: prefetched(cluster) == 4, timeout_s=30)
    assert hints.read_text() == "4 blocks of 4 files: epoch=1 seed=0 rank=5\n"


def test_files_that_are_not_there_fail_the_close_and_everything_else_stays_read_only(cluster: Cluster) -> None:
    hints, before = cluster.mount / ".forebay" / "hints", streams(cluster)
    file = hints.open("w")
    file.write("f00\ngone\n")
    with pytest.raises(OSError, check=lambda e: e.errno == errno.ENOENT):
        file.close()
    assert "1 of 2 files of the hint are not there: /gone" in hints.read_text()
    assert streams(cluster) == before
    for path, flags in ((cluster.mount / "f00", os.O_WRONLY), (cluster.mount / "new", os.O_CREAT | os.O_RDWR)):
        with pytest.raises(OSError, check=lambda e: e.errno == errno.EROFS):
            os.open(path, flags)
    with pytest.raises(OSError, check=lambda e: e.errno == errno.EROFS):
        hints.chmod(0o600)


def test_a_dataset_over_the_mount_tells_its_order_by_itself(cluster: Cluster) -> None:
    before = streams(cluster)
    data = ShardDataset(MountFiles(cluster.mount), NAMES, seed=3)
    data.set_epoch(2)

    samples = [len(sample) for sample in data]

    assert samples == [FILE_BYTES - 16] * FILES
    assert streams(cluster) == before + 1
    with pytest.raises(NotFound, match="not there"):
        list(ShardDataset(MountFiles(cluster.mount), [*NAMES, "gone"], seed=3))
