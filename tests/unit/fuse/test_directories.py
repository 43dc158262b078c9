"""Directory streams: pages, offsets, rewinding, bad names, and what a listing leaves in the inode table."""

from __future__ import annotations

import asyncio
import errno

import pytest

from forebay.contracts import ListReply
from forebay.errors import Overloaded, PeerUnavailable
from forebay.testing import run
from forebay_fuse.ahead import Ahead
from forebay_fuse.directories import OpenDir, is_name
from forebay_fuse.inodes import InodeTable
from forebay_fuse.protocol import layout
from forebay_fuse.protocol.layout import Op
from forebay_fuse.recent import Recent
from tests.unit.fuse.doubles import ROOT, FakeClient, Kernel, names_in

FILES = {f"file-{n:03d}": b"x" * n for n in range(95)}
ALL = [".", "..", *sorted(FILES)]


async def listed(
    kernel: Kernel, handle: int, *, offset: int = 0, size: int = 1000, op: Op = Op.READDIRPLUS
) -> list[str]:
    """Names from an offset to the end, as a program gets them."""
    found: list[str] = []
    while True:
        reply = await kernel.reply(kernel.read(handle, offset, size, op))
        assert reply.errno == 0
        assert len(reply.body) <= size
        entries = names_in(reply.body, plus=op == Op.READDIRPLUS)
        if not entries:
            return found
        found += [name for name, _, _ in entries]
        offset = entries[-1][1]


@pytest.mark.parametrize("op", [Op.READDIR, Op.READDIRPLUS])
@pytest.mark.parametrize("page", [1, 7, 95, 10_000])
def test_every_name_is_listed_once_whatever_the_pages(op: Op, page: int) -> None:
    async def main() -> None:
        async with Kernel(FakeClient(FILES, page=page)) as kernel:
            handle = await kernel.opendir()
            assert await listed(kernel, handle, op=op) == ALL
            await kernel.release(handle, Op.RELEASEDIR)

    run(main())


def test_an_empty_directory_has_the_two_dots() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({})) as kernel:
            assert await listed(kernel, await kernel.opendir()) == [".", ".."]

    run(main())


def test_a_listing_with_attributes_counts_one_lookup_of_each_name_that_was_sent() -> None:
    async def main() -> None:
        async with Kernel(FakeClient(FILES, page=10)) as kernel:
            handle = await kernel.opendir()
            reply = await kernel.reply(kernel.read(handle, 0, 2000, Op.READDIRPLUS))
            entries = names_in(reply.body, plus=True)
            sent = [node_id for name, _, node_id in entries if name not in (".", "..")]
            assert len(kernel.inodes) == 1 + len(sent)
            for node_id in sent:
                kernel.send(Op.FORGET, layout.FORGET_IN.pack(1), node_id)
            assert len(kernel.inodes) == 1

    run(main())


def test_a_listing_that_the_kernel_did_not_take_leaves_no_inodes() -> None:
    async def main() -> None:
        async with Kernel(FakeClient(FILES)) as kernel:
            handle = await kernel.opendir()
            kernel.sink.takes = False
            await kernel.reply(kernel.read(handle, 0, 4096, Op.READDIRPLUS))
            assert len(kernel.inodes) == 1

    run(main())


def test_a_listing_that_fails_in_the_middle_leaves_no_inodes_behind_and_goes_on_later() -> None:
    async def main() -> None:
        client = FakeClient(FILES, page=10)
        async with Kernel(client) as kernel:
            handle = await kernel.opendir()
            first = names_in((await kernel.reply(kernel.read(handle, 0, 1 << 16, Op.READDIRPLUS))).body, plus=True)
            known = len(kernel.inodes)
            client.error = PeerUnavailable("no master")
            failed = await kernel.reply(kernel.read(handle, first[-1][1], 1 << 16, Op.READDIRPLUS))
            assert failed.errno == errno.EIO
            assert len(kernel.inodes) == known
            client.error = None
            rest = await listed(kernel, handle, offset=first[-1][1])
            assert [name for name, _, _ in first] + rest == ALL

    run(main())


def test_offsets_stay_when_pages_were_let_go() -> None:
    async def main() -> None:
        async with Kernel(FakeClient(FILES, page=10)) as kernel:
            handle = await kernel.opendir()
            assert await listed(kernel, handle) == ALL
            for offset in (90, 5, 50, 2, 97, 96):
                assert await listed(kernel, handle, offset=offset) == ALL[offset:]

    run(main())


def test_a_page_that_shrank_meanwhile_shifts_nothing() -> None:
    async def main() -> None:
        client = FakeClient(dict(FILES), page=10)
        async with Kernel(client) as kernel:
            handle = await kernel.opendir()
            assert await listed(kernel, handle) == ALL
            for n in range(30, 60):
                del client.files[f"file-{n:03d}"]
            again = await listed(kernel, handle, offset=12)
            assert again[-1] == ALL[-1]
            assert len(again) == len(set(again))

    run(main())


def test_rewinding_shows_what_there_is_now() -> None:
    async def main() -> None:
        client = FakeClient(dict(FILES), page=10)
        async with Kernel(client) as kernel:
            handle = await kernel.opendir()
            await listed(kernel, handle)
            client.files.clear()
            client.files["new"] = b""
            assert await listed(kernel, handle) == [".", "..", "new"]

    run(main())


def test_a_directory_of_any_length_holds_some_pages() -> None:
    async def main() -> None:
        client = FakeClient(FILES, page=3)
        ahead, recent = Ahead(client), Recent()
        directory = OpenDir(InodeTable(ROOT, "/", None).root)
        for index in (0, 50, 94, 10, 93, 94):
            await directory.bring(client, index, recent, ahead)
            found = directory.find(index)
            assert found is not None
            assert found[1] is not None
            assert found[1].name == f"file-{index:03d}"
            directory.validate()
        await directory.bring(client, 95, recent, ahead)
        assert directory.ends_before(95)
        directory.free(ahead)
        await ahead.close()
        assert not len(ahead)

    run(main())


def test_the_next_page_is_fetched_while_one_is_told_and_answers_at_once_when_it_has_come() -> None:
    async def main() -> None:
        client = FakeClient(FILES, page=10)
        async with Kernel(client) as kernel:
            handle = await kernel.opendir()
            # given the first page, and the second that nobody has asked for yet
            first = names_in((await kernel.reply(kernel.read(handle, 0, 4096, Op.READDIR))).body, plus=False)
            assert len(first) == 12
            while len(client.calls) < 2:
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # and has come
            # when it is asked for, then it is answered without waiting, and the third is on its way
            unique = kernel.read(handle, 12, 4096, Op.READDIR)
            assert unique in kernel.sink.replies
            await asyncio.sleep(0)
            assert len(client.calls) == 3
            await kernel.release(handle, Op.RELEASEDIR)

    run(main())


class Ending(FakeClient):
    """Gives first pages only, until it is told otherwise."""

    ends = True

    async def list_page(self, path: str, page_token: str | None = None, limit: int = 10_000) -> ListReply:
        """A page, or an error."""
        if page_token is not None and self.ends:
            raise Overloaded("busy")
        return await super().list_page(path, page_token, limit)


def test_an_error_of_a_page_fetched_ahead_is_told_to_who_needs_the_page() -> None:
    async def main() -> None:
        client = Ending(FILES, page=10)
        async with Kernel(client) as kernel:
            handle = await kernel.opendir()
            await kernel.reply(kernel.read(handle, 0, 4096, Op.READDIR))
            assert (await kernel.reply(kernel.read(handle, 12, 4096, Op.READDIR))).errno == errno.EBUSY
            client.ends = False
            again = await kernel.reply(kernel.read(handle, 12, 4096, Op.READDIR))
            assert again.errno == 0
            assert again.body
            await kernel.release(handle, Op.RELEASEDIR)

    run(main())


def test_a_page_ahead_that_nobody_wants_is_let_go() -> None:
    async def main() -> None:
        client = FakeClient(FILES, page=10)
        async with Kernel(client) as kernel:
            handle = await kernel.opendir()
            await kernel.reply(kernel.read(handle, 0, 4096, Op.READDIR))
            client.gate.clear()
            await kernel.release(handle, Op.RELEASEDIR)
            ahead = kernel.gateway._listing.ahead
            while len(ahead):
                await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "n" * 256, "ü" * 128])
def test_a_name_that_the_kernel_would_refuse_is_left_out(name: str) -> None:
    assert not is_name(name)


@pytest.mark.parametrize("name", ["a", "...", "with space", "ü" * 127, "\udcff"])
def test_any_other_name_is_shown(name: str) -> None:
    assert is_name(name)
