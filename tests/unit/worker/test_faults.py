"""Tier directories that err: they leave service with a word, reads go on, and they come back by themselves."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forebay.testing import run
from forebay_worker.health import CHECK_PERIOD_S
from forebay_worker.tiers import boot_id
from tests.unit.worker.kit import MIB, Kit, asked_for, content, kit, memory_dir
from tests.unit.worker.test_store import files, settled

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")


@pytest.fixture
def mem() -> Iterator[Path]:
    with memory_dir() as path:
        yield path


@contextmanager
def small_tmpfs(at: Path, size: str) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


@contextmanager
def small_ext4(folder: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def with_clock(parts: Kit) -> Clock:
    clock = Clock()
    parts.store.health._clock = clock
    return clock


async def later(parts: Kit, clock: Clock) -> None:
    """The next look at the directories."""
    clock.now += 2 * CHECK_PERIOD_S
    await parts.store.health.check()


async def read_new(parts: Kit, name: str, size: int = 3 * MIB) -> None:
    data = content(size, len(name))
    assert await parts.read(asked_for(parts.ufs.put(name, data))) == data
    await settled(parts)


@needs_root
def test_a_full_file_system_leaves_service_and_comes_back_when_there_is_room(tmp_path: Path) -> None:
    async def main() -> None:
        with small_tmpfs(tmp_path / "small", "16m") as small:
            async with kit(("MEM", small / "t", 12 * MIB)) as parts:
                clock = with_clock(parts)
                await read_new(parts, "before")
                (small / "somebody else's").write_bytes(bytes(12 * MIB))
                await read_new(parts, "while full")
                assert not parts.store.index.is_in_service(0)
                assert parts.metrics.tier_in_service.value("mem", "0") == 0
                assert parts.metrics.tier_errors.value("mem") >= 1
                await later(parts, clock)
                assert not parts.store.index.is_in_service(0)
                before = parts.metrics.hits.value("mem"), len(parts.ufs.calls)
                await read_again(parts, "before")
                assert len(parts.ufs.calls) == before[1]
                (small / "somebody else's").unlink()
                await later(parts, clock)
                assert parts.store.index.is_in_service(0)
                assert parts.metrics.tier_in_service.value("mem", "0") == 1
                await read_new(parts, "after")
                assert parts.sealed() == 2

    run(main())


async def read_again(parts: Kit, name: str, size: int = 3 * MIB) -> None:
    assert await parts.read(asked_for(parts.ufs._describe(name))) == content(size, len(name))


@needs_root
def test_a_directory_that_may_not_be_written_serves_what_it_has_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(("SSD", tmp_path / "t", 32 * MIB)) as parts:
            clock = with_clock(parts)
            await read_new(parts, "before")
            call("chattr", "-R", "+i", str(tmp_path / "t"))
            try:
                await read_new(parts, "read only")
                assert not parts.store.index.is_in_service(0)
                calls = len(parts.ufs.calls)
                await read_again(parts, "before")
                assert len(parts.ufs.calls) == calls
                await later(parts, clock)
                assert not parts.store.index.is_in_service(0)
            finally:
                call("chattr", "-R", "-i", str(tmp_path / "t"))
            await later(parts, clock)
            assert parts.store.index.is_in_service(0)
            await read_new(parts, "after that")
            assert parts.sealed() == 2

    run(main())


@needs_root
def test_a_disk_that_cannot_read_costs_no_read_and_comes_back_without_what_it_lost(tmp_path: Path) -> None:
    """The image behind the disk is cut off where the block lies: the kernel answers reads of it with EIO."""

    async def main() -> None:
        with small_ext4(tmp_path, tmp_path / "disk") as disk:
            async with kit(("SSD", disk / "t", 32 * MIB), files_max=1) as parts:
                clock = with_clock(parts)
                await read_new(parts, "kept")
                await read_new(parts, "lost")
                path = disk / "t" / block_file(parts, "lost")
                call("sync", "-f", str(path))
                at = where_on_disk(path)
                assert where_on_disk(disk / "t" / block_file(parts, "kept")) < at
                os.truncate(tmp_path / "image", at)
                drop_from_cache(path)
                with pytest.raises(OSError, match="Input/output"):
                    path.read_bytes()
                await read_again(parts, "lost")
                await settled(parts)
                assert not parts.store.index.is_in_service(0)
                assert parts.metrics.tier_errors.value("ssd") >= 1
                await read_again(parts, "kept")
                # the disk reads again
                os.truncate(tmp_path / "image", 64 * MIB)
                await later(parts, clock)
                assert parts.store.index.is_in_service(0)
                await read_again(parts, "lost")
                await settled(parts)
                await read_new(parts, "after that")
                assert parts.sealed() == 3

    run(main())


def block_file(parts: Kit, name: str) -> str:
    block_id = asked_for(parts.ufs._describe(name)).block_id
    return f"{block_id[:2]}/{block_id}.blk"


def where_on_disk(path: Path) -> int:
    """Where a file's first byte lies on its device (FIBMAP)."""
    with path.open("rb") as file:
        number = array("i", [0])
        fcntl.ioctl(file, 1, number)
        return number[0] * os.fstatvfs(file.fileno()).f_bsize


def drop_from_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@needs_root
def test_a_disk_that_broke_down_costs_no_read(tmp_path: Path) -> None:
    async def main() -> None:
        with small_ext4(tmp_path, tmp_path / "disk") as disk:
            async with kit(("SSD", disk / "t", 32 * MIB)) as parts:
                clock = with_clock(parts)
                await read_new(parts, "before")
                call("mount", "-o", "remount,abort", str(disk))
                await read_new(parts, "broken")
                assert not parts.store.index.is_in_service(0)
                await read_again(parts, "before")
                await later(parts, clock)
                assert not parts.store.index.is_in_service(0)

    run(main())


def call(*command: str) -> None:
    subprocess.run(command, check=True)


def remove(path: Path) -> None:
    shutil.rmtree(path)


def empty(path: Path) -> None:
    for child in path.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()


def replace(path: Path) -> None:
    path.rename(path.with_name("moved away"))
    path.mkdir()


@pytest.mark.parametrize("gone", [remove, empty, replace])
def test_a_directory_removed_under_the_worker_is_made_again(mem: Path, gone: Callable[[Path], None]) -> None:
    async def main() -> None:
        async with kit(("MEM", mem / "t", 64 * MIB)) as parts:
            parts.store.health.started(boot_id())
            clock = with_clock(parts)
            await read_new(parts, "before")
            gone(mem / "t")
            await read_again(parts, "before")
            await later(parts, clock)
            await later(parts, clock)
            assert parts.store.index.is_in_service(0)
            assert parts.store.index.used(0) == 0
            assert (mem / "t/nonce").read_text() == parts.store.tiers[0].nonce
            await read_again(parts, "before")
            await settled(parts)
            assert len(files(mem / "t", "blk")) == 1
            assert parts.sealed() == 1

    run(main())


def test_a_directory_that_is_put_back_is_warm_again(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem / "t", 64 * MIB)) as parts:
            parts.store.health.started(boot_id())
            clock = with_clock(parts)
            await read_new(parts, "before")
            (mem / "t").rename(mem / "away")
            await later(parts, clock)
            shutil.rmtree(mem / "t")
            (mem / "away").rename(mem / "t")
            await later(parts, clock)
            await later(parts, clock)
            calls = len(parts.ufs.calls)
            await read_again(parts, "before")
            assert len(parts.ufs.calls) == calls
            assert parts.store.index.is_in_service(0)

    run(main())


def test_a_directory_whose_parent_became_a_file_is_gone_until_it_is_back(mem: Path) -> None:
    async def main() -> None:
        (mem / "p").mkdir()
        async with kit(("MEM", mem / "p/t", 64 * MIB)) as parts:
            parts.store.health.started(boot_id())
            clock = with_clock(parts)
            await read_new(parts, "before")
            (mem / "p").rename(mem / "q")
            (mem / "p").write_bytes(b"in the way")
            await later(parts, clock)
            assert not parts.store.index.is_in_service(0)
            assert parts.store.index.used(0) == 0
            (mem / "p").unlink()
            (mem / "q").rename(mem / "p")
            await later(parts, clock)
            calls = len(parts.ufs.calls)
            await read_again(parts, "before")
            assert len(parts.ufs.calls) == calls

    run(main())


def test_a_directory_that_cannot_even_be_looked_at_leaves_service(mem: Path) -> None:
    async def main() -> None:
        (mem / "p").mkdir()
        async with kit(("MEM", mem / "p/t", 64 * MIB)) as parts:
            clock = with_clock(parts)
            await read_new(parts, "before")
            (mem / "p").rename(mem / "q")
            (mem / "p").symlink_to("p")
            await later(parts, clock)
            assert not parts.store.index.is_in_service(0)
            assert parts.metrics.tier_in_service.value("mem", "0") == 0
            (mem / "p").unlink()
            (mem / "q").rename(mem / "p")
            await later(parts, clock)
            await later(parts, clock)
            assert parts.store.index.is_in_service(0)
            await read_new(parts, "after that")

    run(main())


def test_a_directory_replaced_again_and_again_costs_no_descriptors(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem / "t", 64 * MIB)) as parts:
            parts.store.health.started(boot_id())
            clock = with_clock(parts)
            counts = []
            for number in range(4):
                await read_new(parts, f"file {number}")
                counts.append(len(os.listdir("/proc/self/fd")))
                shutil.rmtree(mem / "t")
                clock.now += 1000
                await parts.store.health.check()
                assert parts.store.index.is_in_service(0)
            assert counts[1] == counts[2] == counts[3]

    run(main())


def is_in_use(image: Path) -> bool:
    """Whether a loop device still reads it: the last unmount gives that up."""
    return bool(subprocess.run(["losetup", "-j", str(image)], check=True, capture_output=True).stdout)


def repair(image: Path) -> None:
    done = subprocess.run(["e2fsck", "-fy", str(image)], check=False, capture_output=True)
    assert done.returncode in {0, 1}, done.stdout


@needs_root
def test_a_disk_that_the_kernel_made_read_only_comes_back_once_it_was_repaired(tmp_path: Path) -> None:
    """What the kernel does to a disk that errs, and what an operator does then, while the worker runs."""

    async def main() -> None:
        with small_ext4(tmp_path, tmp_path / "disk") as disk:
            async with kit(("SSD", disk / "t", 32 * MIB)) as parts:
                parts.store.health.started(boot_id())
                clock = with_clock(parts)
                await read_new(parts, "before")
                await read_new(parts, "half", 9 * MIB)
                await parts.store.sync()
                # given: nothing can be written any more, and what is there is read
                call("mount", "-o", "remount,abort", str(disk))
                await read_new(parts, "broken")
                assert not parts.store.index.is_in_service(0)
                calls = len(parts.ufs.calls)
                await read_again(parts, "before")
                assert len(parts.ufs.calls) == calls
                # when it is taken away, nothing of the worker keeps it
                call("umount", "-l", str(disk))
                await later(parts, clock)
                assert parts.store.index.used(0) == 0
                assert not is_in_use(tmp_path / "image")
                repair(tmp_path / "image")
                await read_again(parts, "before")
                # then it is warm again as soon as it is back
                call("mount", "-o", "loop", str(tmp_path / "image"), str(disk))
                clock.now += 60
                await later(parts, clock)
                assert parts.store.index.is_in_service(0)
                calls = len(parts.ufs.calls)
                await read_again(parts, "before")
                assert len(parts.ufs.calls) == calls
                await read_new(parts, "after that")

    run(main())


@needs_root
def test_a_disk_that_is_not_mounted_any_more_is_not_written_beneath(tmp_path: Path) -> None:
    async def main() -> None:
        with small_tmpfs(tmp_path / "disk", "16m") as disk:
            async with kit(("MEM", disk / "t", 12 * MIB)) as parts:
                parts.store.health.started(boot_id())
                clock = with_clock(parts)
                await read_new(parts, "before")
                call("umount", "-l", str(disk))
                await later(parts, clock)
                await later(parts, clock)
                assert not parts.store.index.is_in_service(0)
                assert list(disk.iterdir()) == []
                await read_again(parts, "before")
                # when something is mounted there again, it returns by itself
                call("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk))
                await later(parts, clock)
                await later(parts, clock)
                assert parts.store.index.is_in_service(0)
                await read_new(parts, "after that")
                assert len(files(disk / "t", "blk")) == 1

    run(main())


@needs_root
def test_a_disk_that_is_unmounted_and_mounted_again_is_warm_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        with small_ext4(tmp_path, tmp_path / "disk") as disk:
            async with kit(("SSD", disk / "t", 32 * MIB)) as parts:
                parts.store.health.started(boot_id())
                clock = with_clock(parts)
                await read_new(parts, "before")
                call("umount", "-l", str(disk))
                await later(parts, clock)
                await later(parts, clock)
                assert not parts.store.index.is_in_service(0)
                call("mount", "-o", "loop", str(tmp_path / "image"), str(disk))
                await later(parts, clock)
                await later(parts, clock)
                assert parts.store.index.is_in_service(0)
                calls = len(parts.ufs.calls)
                await read_again(parts, "before")
                assert len(parts.ufs.calls) == calls

    run(main())


def test_a_directory_that_errs_again_and_again_waits_longer_each_time(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            clock = with_clock(parts)
            waits = []
            for number in range(3):
                asked = asked_for(parts.ufs.put(str(number), content(MIB, number)))
                (mem / asked.block_id[:2]).write_bytes(b"in the way")
                await parts.read(asked)
                await settled(parts)
                waits.append(parts.store.health._states[0].wait_s)
                (mem / asked.block_id[:2]).unlink()
                clock.now += 100
                await parts.store.health.check()
                assert parts.store.index.is_in_service(0)
            assert waits == [2.0, 4.0, 8.0]

    run(main())
