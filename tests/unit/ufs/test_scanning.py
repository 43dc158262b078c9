"""Directories in one piece: what is in them, where links lead, and the processes that scan them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from forebay.contracts.leaves import DIRECTORY_BIT, Leaf
from forebay.errors import NotFound, UfsDenied
from forebay.telemetry import quiet
from forebay.ufs import UfsFile, UfsLimits, UfsUri
from forebay.ufs.posix import PosixUfs
from forebay.ufs.scan import OutsideError, scan
from forebay.ufs.scanners import Scanners


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[PosixUfs]:
    ufs = PosixUfs(UfsUri.parse(f"file://{root}"), quiet(), UfsLimits())
    try:
        yield ufs
    finally:
        await ufs.close()


def fill(root: Path) -> None:
    (root / "d" / "sub").mkdir(parents=True)
    (root / "d" / "b.txt").write_bytes(b"12345")
    (root / "d" / "é").write_bytes(b"")
    (root / "d" / "inside").symlink_to("b.txt")
    (root / "d" / "folder").symlink_to("sub")
    (root / "d" / "outside").symlink_to("/etc/passwd")
    (root / "d" / "nowhere").symlink_to("gone")
    os.mkfifo(root / "d" / "pipe")
    descriptor = os.open(os.fsencode(root / "d") + b"/\xff", os.O_CREAT | os.O_WRONLY)
    os.close(descriptor)


def test_a_directory_in_one_piece_is_what_its_pages_are(tmp_path: Path) -> None:
    async def main() -> None:
        fill(tmp_path)
        async with opened(tmp_path) as ufs:
            leaf = await ufs.list_whole("d")
            page = await ufs.list_page("d")
        assert leaf is not None
        assert leaf.names == ["b.txt", "folder", "inside", "sub", "é"]
        found = {entry.key.removeprefix("d/"): entry for entry in page.entries}
        assert sorted(found) == sorted(leaf.names)
        columns = zip(leaf.names, leaf.modes, leaf.sizes, leaf.mtimes_ns, leaf.fingerprints, strict=True)
        for name, mode, size, mtime_ns, fingerprint in columns:
            entry = found[name]
            assert entry.mtime_ns == mtime_ns
            assert isinstance(entry, UfsFile) != bool(mode & DIRECTORY_BIT)
            if isinstance(entry, UfsFile):
                assert (entry.mode, entry.size, entry.fingerprint) == (mode, size, fingerprint)

    run(main())


def test_a_large_directory_is_not_given_in_one_piece(tmp_path: Path) -> None:
    async def main() -> None:
        for number in range(5):
            (tmp_path / f"{number}").touch()
        async with opened(tmp_path) as ufs:
            assert await ufs.list_whole("", names_max=4) is None
            leaf = await ufs.list_whole("", names_max=5)
            assert leaf is not None
            assert len(leaf) == 5

    run(main())


def test_what_is_no_directory_or_lies_outside_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "file").touch()
        (tmp_path / "in" / "out").symlink_to(tmp_path)
        async with opened(tmp_path / "in") as ufs:
            for key in ("gone", "file", "file/below"):
                with pytest.raises(NotFound):
                    await ufs.list_whole(key)
            with pytest.raises(UfsDenied):
                await ufs.list_whole("out")
        with pytest.raises(OutsideError):
            scan(str(tmp_path / "in"), "out", 10)

    run(main())


def test_many_directories_at_once_are_scanned_by_processes_that_end_with_the_under_store(tmp_path: Path) -> None:
    async def main() -> None:
        names = [f"d{number}" for number in range(20)]
        for name in names:
            (tmp_path / name / "x").mkdir(parents=True)
            (tmp_path / name / f"{name}-file").touch()
        ufs = PosixUfs(UfsUri.parse(f"file://{tmp_path}"), quiet(), UfsLimits())
        try:
            found = await asyncio.gather(*map(ufs.list_whole, names))
            assert ufs.scanning > 0
            with pytest.raises(NotFound):
                await ufs.list_whole("gone")
        finally:
            await ufs.close()
        assert [leaf.names if leaf else None for leaf in found] == [[f"{name}-file", "x"] for name in names]
        assert ufs.scanning == 0

    run(main())


def test_a_scanning_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "a").touch()
        scanners = Scanners(1)
        try:
            assert await scanners.scan(str(tmp_path), "", 10) is not None
            for process in scanners.processes:
                process.kill()
            with pytest.raises(ChildProcessError):
                await scanners.scan(str(tmp_path), "", 10)
            found = await scanners.scan(str(tmp_path), "", 10)
            assert found is not None
            assert found[0] == ["a"]
        finally:
            await scanners.close()
        assert len(scanners) == 0

    run(main())


def test_who_gives_up_waiting_leaves_no_answer_for_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        for name in ("a", "b"):
            (tmp_path / name / f"{name}-file").mkdir(parents=True)
        scanners = Scanners(1)
        try:
            await scanners.scan(str(tmp_path), "a", 10)
            asked = asyncio.ensure_future(scanners.scan(str(tmp_path), "a", 10))
            await asyncio.sleep(0)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            found = await scanners.scan(str(tmp_path), "b", 10)
            assert found is not None
            assert found[0] == ["b-file"]
        finally:
            await scanners.close()

    run(main())


def test_idle_scanning_processes_end(tmp_path: Path) -> None:
    async def main() -> None:
        scanners = Scanners(1, idle_s=0.01)
        try:
            await scanners.scan(str(tmp_path), "", 10)
            (process,) = scanners.processes
            await asyncio.wait_for(process.wait(), 30)
            assert (len(scanners), process.returncode) == (0, 0)
            assert await scanners.scan(str(tmp_path), "", 10) == ([], [], [], [], [], [], 0)
        finally:
            await scanners.close()

    run(main())


def test_the_scanning_program_needs_the_standard_library_alone() -> None:
    source = (Path(sys.modules["forebay.ufs.scan"].__file__ or "")).read_text()
    imported = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= sys.stdlib_module_names | {"__future__"}


def test_a_leaf_of_an_empty_directory_is_empty(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as ufs:
            assert await ufs.list_whole("") == Leaf(1, [], [], [], [], [])

    run(main())
