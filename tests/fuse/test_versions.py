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


PAGE = mmap.PAGESIZE
MODES = {
    "cached": ("--no-passthrough",),
    "direct": ("--direct-io",),
    "mapped": ("--no-passthrough",),
    "passthrough": (),
    "mapped and passed through": (),
}


class View:
    """One version, held open by a program: read page by page, through a descriptor or a mapping."""

    def __init__(self, path: Path, mode: str) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self.fd).st_size
        self.mapped = mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ) if "mapped" in mode else None

    def page(self, number: int) -> bytes:
        """One page."""
        if self.mapped is not None:
            return self.mapped[number * PAGE : (number + 1) * PAGE]
        return os.pread(self.fd, PAGE, number * PAGE)

    def close(self) -> None:
        """Lets go of it."""
        if self.mapped is not None:
            self.mapped.close()
        os.close(self.fd)


@pytest.mark.parametrize("mode", list(MODES))
def test_page_by_page_each_handle_reads_only_its_own_version_in_every_mode(tmp_path: Path, mode: str) -> None:
    # given a file of one block whose first version is open, and of which every other page was read
    source, mount = tmp_path / "source", tmp_path / "mount"
    source.mkdir()
    mount.mkdir()
    rng = random.Random(4)
    pages = 300
    old, new = rng.randbytes(pages * PAGE), rng.randbytes((pages + 7) * PAGE)
    (source / "file").write_bytes(old)
    with file_cluster(source, mount, "--entry-timeout", "1", *MODES[mode]) as cluster:
        (mount / "file").read_bytes()  # the workers have all of it
        first = View(mount / "file", mode)
        for number in range(0, pages, 2):
            assert first.page(number) == old[number * PAGE : (number + 1) * PAGE]
        # when it is replaced, and the new version is opened as well
        replace(source / "file", new)
        eventually(lambda: (mount / "file").stat().st_size == len(new), what="the new size", timeout_s=20)
        second = View(mount / "file", mode)
        # then all pages of both are right, read in turn
        for number in range(pages):
            assert first.page(number) == old[number * PAGE : (number + 1) * PAGE], number
            assert second.page(number) == new[number * PAGE : (number + 1) * PAGE], number
        assert second.page(pages + 6) == new[-PAGE:]
        assert os.fstat(first.fd).st_size == len(old)
        assert os.fstat(first.fd).st_ino == os.fstat(second.fd).st_ino
        first.close()
        assert second.page(3) == new[3 * PAGE : 4 * PAGE]
        second.close()
        said = (mount / ".forebay" / "stats").read_text()
        wanted = mode if mode in ("cached", "direct") else "cached" if mode == "mapped" else "passthrough"
        assert f'forebay_fuse_opens_total{{mode="{wanted}"}}' in said
        assert cluster is not None
