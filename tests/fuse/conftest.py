"""A real cluster over a real folder, mounted by a real gateway; one for all tests that change nothing of it."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.cli.cluster import ClusterSpec, LocalCluster, detach_dead

MIB = 1 << 20
BLOCK_BYTES = 4 * MIB


def fill_source(source: Path) -> None:
    """Files of the kinds that matter: larger than a block, empty, odd names, many in one folder."""
    rng = random.Random(7)
    source.mkdir()
    (source / "large.bin").write_bytes(rng.randbytes(3 * BLOCK_BYTES + 12_345))
    (source / "block.bin").write_bytes(rng.randbytes(BLOCK_BYTES))
    (source / "empty").write_bytes(b"")
    (source / "with space and ümläut ✓.txt").write_text("grüezi\n")
    (source / "deep" / "er" / "still").mkdir(parents=True)
    (source / "deep" / "er" / "still" / "leaf").write_bytes(rng.randbytes(100_000))
    (source / "many").mkdir()
    for number in range(1000):
        (source / "many" / f"file-{number:04d}").write_bytes(rng.randbytes(100 + number))
    (source / "void").mkdir()


def file_cluster(source: Path, mount: Path, *gateway: str, short_circuit: bool = True) -> LocalCluster:
    """A cluster of one worker over ``source``, mounted at ``mount``; names are looked up anew every second."""
    flags = {"master": ("--block-size", str(BLOCK_BYTES), "--max-age-s", "1"), "gateway": gateway}
    return LocalCluster(
        ClusterSpec(
            mounts=(f"/=file://{source}",),
            ufs_roots=(f"file://{source}",),
            worker_mem_bytes=256 * MIB,
            mount_dirs=(mount,),
            extra=flags,
            short_circuit=short_circuit,
        )
    )


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder below the cluster."""
    path = tmp_path_factory.mktemp("fuse") / "source"
    fill_source(path)
    return path


@pytest.fixture(scope="session", params=["local", "remote"])
def mounted(request: pytest.FixtureRequest, source: Path) -> Iterator[Path]:
    """The mount: once with blocks of this host read in place, once by HTTP/2 alone. Every user may reach it."""
    with tempfile.TemporaryDirectory(prefix="forebay-test-") as folder:
        mount = Path(folder) / "mount"
        mount.mkdir()
        os.chmod(folder, 0o755)
        with file_cluster(source, mount, short_circuit=request.param == "local"):
            yield mount
        assert not detach_dead(mount), "the gateway left a dead mount"
        assert not os.path.ismount(mount)
