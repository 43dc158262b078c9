"""What only files have: links, pipes, odd names, permissions, changing directories."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forebay.contracts import UfsOptions
from forebay.errors import NotFound, StaleVersion, UfsDenied
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.ufs import Ufs, UfsDir, UfsFile, UfsUri, check_listable, open_ufs


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Ufs]:
    ufs = await open_ufs(UfsUri.parse(f"file://{folder}"), UfsOptions(), telemetry=quiet())
    try:
        yield ufs
    finally:
        await ufs.close()


async def whole(ufs: Ufs, key: str) -> bytes:
    entry = await ufs.stat(key)
    assert isinstance(entry, UfsFile)
    return b"".join([p async for p in ufs.read(key, 0, entry.size, fingerprint=entry.fingerprint)])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A source beside a secret."""
    (tmp_path / "data" / "dir").mkdir(parents=True)
    (tmp_path / "data" / "dir" / "file").write_bytes(b"content")
    (tmp_path / "data2").mkdir()
    (tmp_path / "data2" / "secret").write_bytes(b"secret")
    return tmp_path / "data"


def test_links_that_stay_inside_are_what_they_lead_to(data: Path) -> None:
    async def main() -> None:
        # given
        (data / "to-file").symlink_to("dir/file")
        (data / "to-dir").symlink_to(data / "dir")
        async with opened(data) as ufs:
            # when
            page = await ufs.list_page("")
            # then
            kinds = {entry.key: type(entry) for entry in page.entries}
            assert kinds == {"dir": UfsDir, "to-dir": UfsDir, "to-file": UfsFile}
            assert await whole(ufs, "to-file") == await whole(ufs, "to-dir/file") == b"content"

    run(main())


def test_links_that_lead_out_are_refused_and_not_listed(data: Path) -> None:
    async def main() -> None:
        # given
        for name, target in {
            "file-out": "../data2/secret",
            "dir-out": "../data2",
            "root": "/",
            "up": "..",
            "gone": "nowhere",
            "circle": "circle",
        }.items():
            (data / name).symlink_to(target)
        async with opened(data) as ufs:
            # when
            page = await ufs.list_page("")
            # then
            assert [entry.key for entry in page.entries] == ["dir"]
            for key in ["file-out", "dir-out", "dir-out/secret", "root/etc/passwd", "up", "up/data2/secret", "circle"]:
                with pytest.raises(UfsDenied):
                    await ufs.stat(key)
                with pytest.raises(UfsDenied):
                    await anext(ufs.read(key, 0, 1, fingerprint="f"))
            with pytest.raises(UfsDenied):
                await ufs.list_page("dir-out")
            with pytest.raises(NotFound):
                await ufs.stat("gone")

    run(main())


def test_a_source_that_is_a_link_itself_is_followed(data: Path) -> None:
    async def main() -> None:
        (data.parent / "alias").symlink_to("data")
        async with opened(data.parent / "alias") as ufs:
            assert await whole(ufs, "dir/file") == b"content"

    run(main())


def test_pipes_sockets_and_devices_are_no_files(data: Path) -> None:
    async def main() -> None:
        # given
        os.mkfifo(data / "pipe")
        async with opened(data) as ufs:
            # when
            page = await ufs.list_page("")
            # then
            assert [entry.key for entry in page.entries] == ["dir"]
            assert page.skipped == 1
            with pytest.raises(NotFound):
                await ufs.stat("pipe")
            with pytest.raises(NotFound):
                await anext(ufs.read("pipe", 0, 1, fingerprint="f"))

    run(main())


def test_names_that_are_not_utf8_are_skipped(data: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(data) + b"/\xff\xfe"))
    odd.write_bytes(b"x")

    async def main() -> None:
        async with opened(data) as ufs:
            page = await ufs.list_page("")
            assert ([entry.key for entry in page.entries], page.skipped) == (["dir"], 1)

    run(main())


def test_modes_and_times_are_the_files_own(data: Path) -> None:
    async def main() -> None:
        (data / "dir" / "file").chmod(0o640)
        os.utime(data / "dir" / "file", ns=(1, 1_234_567_890_123_456_789))
        async with opened(data) as ufs:
            entry = await ufs.stat("dir/file")
            assert isinstance(entry, UfsFile)
            assert (entry.mode, entry.mtime_ns) == (0o640, 1_234_567_890_123_456_789)

    run(main())


def test_a_file_written_in_place_during_a_read_is_stale_before_its_last_byte(data: Path) -> None:
    async def main() -> None:
        # given
        size = 5 << 20
        (data / "big").write_bytes(b"o" * size)
        async with opened(data) as ufs:
            entry = await ufs.stat("big")
            assert isinstance(entry, UfsFile)
            pieces = ufs.read("big", 0, size, fingerprint=entry.fingerprint)
            got = [await anext(pieces)]
            # when
            with (data / "big").open("r+b") as file:
                file.write(b"n" * size)
                os.utime(file.fileno(), ns=(1, entry.mtime_ns + 1))
            # then
            with pytest.raises(StaleVersion):
                got.extend([piece async for piece in pieces])
            assert sum(len(piece) for piece in got) < size

    run(main())


def test_a_file_cut_during_a_read_is_stale(data: Path) -> None:
    async def main() -> None:
        # given
        size = 5 << 20
        (data / "big").write_bytes(b"o" * size)
        async with opened(data) as ufs:
            entry = await ufs.stat("big")
            assert isinstance(entry, UfsFile)
            pieces = ufs.read("big", 0, size, fingerprint=entry.fingerprint)
            await anext(pieces)
            # when
            os.truncate(data / "big", 1 << 20)
            # then
            with pytest.raises(StaleVersion):
                async for _ in pieces:
                    pass

    run(main())


def test_a_directory_that_grows_between_pages_loses_no_old_name(data: Path) -> None:
    async def main() -> None:
        # given
        for number in range(10):
            (data / "dir" / f"f{number}").touch()
        async with opened(data) as ufs:
            first = await ufs.list_page("dir", limit=4)
            # when
            (data / "dir" / "f35").touch()
            (data / "dir" / "a-new-one").touch()
            rest = await ufs.list_page("dir", token=first.next_token)
        # then
        names = [entry.key for page in (first, rest) for entry in page.entries]
        assert len(names) == len(set(names))
        assert {f"dir/f{number}" for number in range(10)} <= set(names)

    run(main())


def test_a_source_that_is_missing_or_a_file_says_so(data: Path) -> None:
    async def main() -> None:
        for folder in (data / "nothing", data / "dir" / "file"):
            async with opened(folder) as ufs:
                with pytest.raises(NotFound, match="does not exist or is no folder"):
                    await check_listable(ufs)

    run(main())


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives up its rights for this")
def test_a_source_that_may_not_be_listed_says_so(data: Path) -> None:
    async def main() -> None:
        async with opened(data) as ufs:
            with pytest.raises(UfsDenied, match="may not be listed"):
                await check_listable(ufs)

    # given
    data.chmod(0o700)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            run(main())
        except BaseException:  # noqa: BLE001 -- the child must end here whatever happened
            os._exit(1)
        os._exit(0)
    # when, then
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
