"""A file that is replaced below while it is open: each handle reads one version or says that it cannot."""

from __future__ import annotations

import errno
import mmap
import os
import random
from pathlib import Path

import pytest

from forebay.testing.cluster import eventually
from tests.fuse.conftest import BLOCK_BYTES, file_cluster

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
SIZE = 2 * BLOCK_BYTES


def replace(path: Path, data: bytes) -> None:
    """A new file under the old name, as object stores and careful writers do."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    os.replace(new, path)


def read_errno(fd: int, offset: int) -> int | bytes:
    """Bytes at an offset, or the errno."""
    try:
        return os.pread(fd, 4096, offset)
    except OSError as e:
        return e.errno or 0


@pytest.mark.parametrize("short_circuit", [True, False])
def test_old_handles_keep_their_version_and_new_ones_see_the_new(tmp_path: Path, short_circuit: bool) -> None:
    # given a file whose first version was read whole and is still open and mapped
    source, mount = tmp_path / "source", tmp_path / "mount"
    source.mkdir()
    mount.mkdir()
    rng = random.Random(1)
    old, new = rng.randbytes(SIZE), rng.randbytes(SIZE + 1000)
    (source / "file").write_bytes(old)
    with (
        file_cluster(source, mount, "--entry-timeout", "1", short_circuit=short_circuit),
        (mount / "file").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert bytes(mapped) == old
        # when it is replaced, and the new version is seen under the name
        replace(source / "file", new)
        eventually(lambda: (mount / "file").stat().st_size == len(new), what="the new size", timeout_s=20)
        # then both are there, each through its own handle
        with (mount / "file").open("rb") as again:
            assert again.read() == new
            assert bytes(mapped) == old
            assert os.pread(file.fileno(), SIZE, 0) == old
            assert os.fstat(file.fileno()).st_ino == os.fstat(again.fileno()).st_ino
            assert os.fstat(file.fileno()).st_size == len(old)


def test_what_was_never_read_of_a_replaced_file_is_estale_and_never_a_mixture(tmp_path: Path) -> None:
    # given a file that is open, and of which nothing but its beginning was read
    source, mount = tmp_path / "source", tmp_path / "mount"
    source.mkdir()
    mount.mkdir()
    rng = random.Random(2)
    size = 40 * BLOCK_BYTES  # well beyond any readahead
    old, new = rng.randbytes(size), rng.randbytes(size)
    (source / "file").write_bytes(old)
    with file_cluster(source, mount, "--entry-timeout", "1", "--readahead", "4MiB"):
        fd = os.open(mount / "file", os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            assert os.pread(fd, 4096, 0) == old[:4096]
            # when it is replaced below
            replace(source / "file", new)
            # then its end is stale, by errno, and what comes is the old version's or an error
            offsets = [size - 4096, size // 2, 0]
            found = [read_errno(fd, offset) for offset in offsets]
            assert found[0] == errno.ESTALE
            for offset, got in zip(offsets, found, strict=True):
                assert got == errno.ESTALE or got == old[offset : offset + 4096]
        finally:
            os.close(fd)
        # and a new open reads the new version
        eventually(lambda: read_whole(mount / "file") == new, what="the new version", timeout_s=20)


def read_whole(path: Path) -> bytes:
    """All bytes, or none while the kernel's name is of the old version."""
    try:
        return path.read_bytes()
    except OSError as e:
        if e.errno != errno.ESTALE:
            raise
        return b""
