"""One request after another against a namespace in memory: answers, errors, interruptions, limits."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from forebay.errors import DeadlineExceeded, NotFound, Overloaded, StaleVersion
from forebay.testing import run
from forebay_fuse.protocol import layout, replies
from forebay_fuse.protocol.layout import Op
from forebay_fuse.view import View
from tests.unit.fuse.doubles import ACCESSED_S, BLOCK_SIZE, FakeClient, Kernel, names_in

DATA = bytes(range(256)) * 100  # more than three blocks


def test_a_file_is_looked_up_opened_read_and_closed_and_everything_returns_to_zero() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            handle = await kernel.open("a")
            reply = await kernel.reply(kernel.read(handle, 100, 10_000))
            assert reply.body == DATA[100:10_100]
            tail = await kernel.reply(kernel.read(handle, len(DATA) - 5, 4096))
            assert tail.body == DATA[-5:]
            assert (await kernel.reply(kernel.read(handle, len(DATA) + 5, 4096))).body == b""
            assert (await kernel.release(handle)).errno == 0
            assert kernel.client.readers[0].is_closed
            kernel.send(Op.FORGET, layout.FORGET_IN.pack(1), node_id=2)
            await kernel.idle()
            for name in ("handles", "pending", "buffers"):
                assert kernel.metric(f"forebay_fuse_{name}") == 0
            assert kernel.metric("forebay_fuse_inodes") == 1

    run(main())


def test_a_block_of_this_host_is_answered_at_once_and_counted() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA}, is_local=True)) as kernel:
            handle = await kernel.open("a")
            unique = kernel.read(handle, 0, BLOCK_SIZE)
            assert kernel.sink.replies[unique].body == DATA[:BLOCK_SIZE]
            reader = kernel.client.readers[0]
            assert reader.blocks[0].counted == BLOCK_SIZE
            # across blocks as well
            unique = kernel.read(handle, BLOCK_SIZE - 10, 20)
            assert kernel.sink.replies[unique].body == DATA[BLOCK_SIZE - 10 : BLOCK_SIZE + 10]
            assert (reader.blocks[0].counted, reader.blocks[1].counted) == (BLOCK_SIZE + 10, 10)
            # and by the reader, where splicing is not possible
            kernel.sink.splices = False
            copied = await kernel.reply(kernel.read(handle, 1, 20))
            assert copied.body == DATA[1:21]
            await kernel.release(handle)

    run(main())


def test_bytes_that_readahead_holds_are_answered_at_once() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            handle = await kernel.open("a")
            kernel.client.readers[0].ahead = True
            unique = kernel.read(handle, 5, 1001)
            assert kernel.sink.replies[unique].body == DATA[5:1006]

    run(main())


def test_bytes_that_are_on_their_way_are_waited_for_and_need_no_reply_buffer() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            handle = await kernel.open("a")
            reader = kernel.client.readers[0]
            reader.coming = True
            reader.gate.clear()
            unique = kernel.read(handle, 5, 1001)
            await asyncio.sleep(0)
            assert unique not in kernel.sink.replies
            assert kernel.metric("forebay_fuse_buffers") == 0
            reader.gate.set()
            assert (await kernel.reply(unique)).body == DATA[5:1006]
            assert kernel.metric('forebay_fuse_read_bytes_total{source="readahead"}') == 1001

    run(main())


@pytest.mark.parametrize("op", sorted(layout.WRITING))
def test_every_writing_request_is_erofs(op: Op) -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            assert (await kernel.ask(op, bytes(64))).errno == errno.EROFS

    run(main())


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR])
def test_opening_for_writing_is_erofs(flags: int) -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            node_id = await kernel.lookup("a")
            assert (await kernel.ask(Op.OPEN, layout.OPEN_IN.pack(flags, 0), node_id)).errno == errno.EROFS

    run(main())


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (DeadlineExceeded("late"), errno.ETIMEDOUT),
        (Overloaded("full"), errno.EBUSY),
        (StaleVersion("new"), errno.ESTALE),
        (NotFound("gone"), errno.ESTALE),
        (BlockingIOError(errno.EAGAIN, "ours"), errno.EIO),
        (ZeroDivisionError(), errno.EIO),
    ],
)
def test_a_failed_read_is_an_errno_for_that_read_alone_and_never_eagain(error: Exception, number: int) -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            handle = await kernel.open("a")
            reader = kernel.client.readers[0]
            reader.error = error
            assert (await kernel.reply(kernel.read(handle, 0, 4096))).errno == number
            reader.error = None
            assert (await kernel.reply(kernel.read(handle, 0, 4096))).body == DATA[:4096]
            assert kernel.metric("forebay_fuse_errors_total") == 1
            assert kernel.metric("forebay_fuse_unexpected_errors_total") == (number == errno.EIO)

    run(main())


def test_a_read_that_came_back_short_is_an_error_and_not_the_end_of_the_file() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            handle = await kernel.open("a")
            kernel.client.readers[0].short = 1
            assert (await kernel.reply(kernel.read(handle, 0, 4096))).errno == errno.EIO

    run(main())


def test_a_name_that_the_sdk_knows_is_answered_at_once_and_no_master_is_asked() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        async with Kernel(client) as kernel:
            client.known["/a"] = await client.lookup("/a")
            client.known["/none"] = NotFound("no such name", valid_s=5.0)
            client.calls.clear()
            client.gate.clear()  # no answer would come
            found = [kernel.send(Op.LOOKUP, name) for name in (b"a\0", b"none\0")]
            nodes = [layout.ENTRY.unpack_from(kernel.sink.replies[unique].body)[0] for unique in found]
            assert nodes == [2, 0]
            assert client.calls == []
            client.gate.set()

    run(main())


def test_a_stale_version_makes_kernel_and_sdk_forget_the_name_once() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            handle = await kernel.open("a")
            kernel.client.readers[0].error = StaleVersion("new")
            for _ in range(3):
                assert (await kernel.reply(kernel.read(handle, 0, 4096))).errno == errno.ESTALE
            assert kernel.client.forgotten == ["/a"]
            (notice,) = kernel.sink.notices
            parent, length, _ = layout.NOTIFY_ENTRY.unpack_from(notice, layout.OUT_HEADER.size)
            assert (parent, notice[-length - 1 : -1]) == (1, b"a")

    run(main())


def test_a_new_version_is_a_new_node_id_with_the_same_inode_number() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        async with Kernel(client) as kernel:
            old = await kernel.lookup("a")
            client.files["a"] = b"new"
            new = await kernel.lookup("a")
            assert old != new
            sizes, numbers = [], set()
            for node_id in (old, new):
                reply = await kernel.ask(Op.GETATTR, bytes(16), node_id)
                number, size = layout.ATTR.unpack_from(reply.body, layout.ATTR_OUT.size)[:2]
                sizes.append(size)
                numbers.add(number)
            assert sizes == [len(DATA), 3]
            assert len(numbers) == 1

    run(main())


def test_an_interrupted_request_is_eintr_soon_and_the_others_go_on() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            handle = await kernel.open("a")
            reader = kernel.client.readers[0]
            reader.gate.clear()
            first, second = kernel.read(handle, 0, 4096), kernel.read(handle, 4096, 4096)
            kernel.send(Op.INTERRUPT, layout.INTERRUPT_IN.pack(first))
            assert (await kernel.reply(first)).errno == errno.EINTR
            assert second not in kernel.sink.replies
            reader.gate.set()
            assert (await kernel.reply(second)).body == DATA[4096:8192]
            kernel.send(Op.INTERRUPT, layout.INTERRUPT_IN.pack(second))  # too late: nothing happens

    run(main())


def test_when_too_many_requests_wait_the_device_is_left_unread_until_there_is_room() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA}), waits_max=4) as kernel:
            said: list[str] = []
            waits = kernel.gateway.waits
            waits.on_full, waits.on_room = lambda: said.append("full"), lambda: said.append("room")
            handle = await kernel.open("a")
            reader = kernel.client.readers[0]
            reader.gate.clear()
            reads = [kernel.read(handle, 0, 4096) for _ in range(4)]
            assert said == ["full"]
            waits.validate()
            reader.gate.set()
            for unique in reads:
                assert (await kernel.reply(unique)).errno == 0
            await kernel.idle()
            assert said == ["full", "room"]

    run(main())


def test_reply_buffers_are_bounded_and_one_of_an_interrupted_read_is_not_used_again() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA}), View(max_background=2)) as kernel:
            handle = await kernel.open("a")
            reader = kernel.client.readers[0]
            reader.gate.clear()
            reads = [kernel.read(handle, 0, 4096) for _ in range(5)]
            for _ in range(5):
                await asyncio.sleep(0)
            assert kernel.metric("forebay_fuse_buffers") == 2
            for unique in reads[:2]:
                kernel.send(Op.INTERRUPT, layout.INTERRUPT_IN.pack(unique))
                await kernel.reply(unique)
            reader.gate.set()
            for unique in reads[2:]:
                assert (await kernel.reply(unique)).body == DATA[:4096]

    run(main())


def test_a_missing_name_is_remembered_no_longer_than_the_master_says() -> None:
    async def main() -> None:
        for view, seconds in ((View(negative_timeout_s=100), 5), (View(negative_timeout_s=1), 1)):
            async with Kernel(FakeClient({}), view) as kernel:
                reply = await kernel.ask(Op.LOOKUP, b"none\0")
                assert layout.ENTRY.unpack_from(reply.body)[0] == 0
                assert layout.ENTRY.unpack_from(reply.body)[2] == seconds
        async with Kernel(FakeClient({}), View(negative_timeout_s=0)) as kernel:
            assert (await kernel.ask(Op.LOOKUP, b"none\0")).errno == errno.ENOENT

    run(main())


@pytest.mark.parametrize(
    ("name", "number"), [(b"\xff\xfe", errno.ENOENT), (b"n" * 256, errno.ENAMETOOLONG), (b"", errno.EIO)]
)
def test_names_that_cannot_be_are_refused_without_a_call(name: bytes, number: int) -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            assert (await kernel.ask(Op.LOOKUP, name + b"\0")).errno == number
            assert kernel.client.calls == []

    run(main())


def test_names_are_kept_no_longer_than_the_master_says() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        async with Kernel(client, View(entry_timeout_s=10, attr_timeout_s=20)) as kernel:
            seconds = []
            for valid_s in (None, 100.0, 3.0, 0.0):
                client.valid_s = valid_s
                reply = await kernel.ask(Op.LOOKUP, b"a\0")
                seconds.append(layout.ENTRY.unpack_from(reply.body)[2])
            assert seconds == [10, 10, 3, 0]

    run(main())


def test_a_lookup_that_the_kernel_did_not_take_leaves_no_inode() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            kernel.sink.takes = False
            await kernel.ask(Op.LOOKUP, b"a\0")
            assert len(kernel.inodes) == 1

    run(main())


def test_requests_for_what_is_not_there_are_refused() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            assert (await kernel.ask(Op.GETATTR, bytes(16), node_id=99)).errno == errno.ESTALE
            assert (await kernel.ask(Op.OPEN, bytes(8), node_id=99)).errno == errno.ESTALE
            assert (await kernel.ask(Op.OPEN, bytes(8), node_id=1)).errno == errno.EISDIR
            assert (await kernel.reply(kernel.read(77, 0, 4096))).errno == errno.EBADF
            assert (await kernel.reply(kernel.read(77, 0, 4096, Op.READDIR))).errno == errno.EBADF
            for op in (Op.READLINK, Op.FLUSH, Op.IOCTL, 9999):
                assert (await kernel.ask(op, bytes(64))).errno == errno.ENOSYS
            handle = await kernel.open("a")
            assert (await kernel.reply(kernel.read(handle, 0, (1 << 20) + 1))).errno == errno.EINVAL

    run(main())


def test_files_keep_their_mode_but_are_writable_by_none_less_the_umask() -> None:
    async def main() -> None:
        for umask, mode in ((0, 0o100554), (0o027, 0o100550)):
            async with Kernel(FakeClient({"a": DATA}), View(umask=umask, uid=5, gid=6)) as kernel:
                reply = await kernel.ask(Op.GETATTR, bytes(16), await kernel.lookup("a"))
                attributes = layout.ATTR.unpack_from(reply.body, layout.ATTR_OUT.size)
                assert attributes[9] == mode
                assert attributes[11:13] == (5, 6)

    run(main())


def test_open_says_what_the_page_cache_may_keep() -> None:
    async def main() -> None:
        flags = layout.Open
        for view, expected in (
            (View(), flags.KEEP_CACHE | flags.NOFLUSH),
            (View(kernel_cache=False), flags.NOFLUSH),
            (View(direct_io=True), flags.DIRECT_IO | flags.NOFLUSH),
        ):
            async with Kernel(FakeClient({"a": DATA}), view) as kernel:
                node_id = await kernel.lookup("a")
                reply = await kernel.ask(Op.OPEN, bytes(8), node_id)
                assert layout.OPEN_OUT.unpack_from(reply.body)[1] == expected

    run(main())


def test_the_session_agrees_on_what_both_can() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({})) as kernel:
            offer = int(layout.Init.DO_READDIRPLUS | layout.Init.MAX_PAGES) | 1 << 5
            reply = await kernel.ask(Op.INIT, layout.INIT_IN.pack(7, 99, 1 << 17, offer))
            fields = layout.INIT_OUT.unpack(reply.body)
            assert fields[:2] == (7, layout.MINOR)
            assert fields[3] == int(layout.Init.DO_READDIRPLUS | layout.Init.MAX_PAGES)
            assert await kernel.gateway.negotiated
        async with Kernel(FakeClient({})) as kernel:
            assert (await kernel.ask(Op.INIT, layout.INIT_IN.pack(7, 12, 0, 0))).errno == errno.EPROTO
            assert not await kernel.gateway.negotiated
        async with Kernel(FakeClient({})) as kernel:
            reply = await kernel.ask(Op.INIT, layout.INIT_IN.pack(8, 1, 0, 0))
            assert layout.INIT_OUT.unpack(reply.body)[:2] == (7, layout.MINOR)
            assert not kernel.gateway.negotiated.done()

    run(main())


def test_a_crowded_inode_table_asks_the_kernel_for_names_back_and_lists_without_links() -> None:
    async def main() -> None:
        files = {f"f{n:02d}": b"x" for n in range(40)}
        async with Kernel(FakeClient(files), limit=20) as kernel:
            for name in sorted(files)[:18]:
                await kernel.lookup(name)
            await kernel.ask(Op.LOOKUP, b"f30\0")
            assert kernel.sink.notices
            handle = await kernel.opendir()
            reply = await kernel.reply(kernel.read(handle, 0, 1 << 16, Op.READDIRPLUS))
            entries = names_in(reply.body, plus=True)
            assert len(entries) == 42
            assert {node_id for _, _, node_id in entries} == {0}

    run(main())


ATTR_ENTRY_AT, ATTR_AT = layout.ENTRY.size, layout.ATTR_OUT.size


def times_of(body: bytes, at: int) -> tuple[float, float]:
    """Access and modification time of a ``struct fuse_attr``."""
    found = layout.ATTR.unpack_from(body, at)
    return found[3] + found[6] / 1e9, found[4] + found[7] / 1e9


def test_an_open_changes_the_access_time_in_every_reply_and_the_kernel_forgets_the_one_before() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA, "b": DATA}), View(update_access_time=True)) as kernel:
            before = times_of((await kernel.ask(Op.LOOKUP, b"a\0")).body, ATTR_ENTRY_AT)
            assert before[0] == before[1]
            handle, node_id = await kernel.open("a"), 2
            assert kernel.sink.notices == [replies.invalidate_attributes(node_id)]
            after = (ACCESSED_S, before[1])
            found = await kernel.ask(Op.LOOKUP, b"a\0")
            assert times_of(found.body, ATTR_ENTRY_AT) == after
            assert times_of((await kernel.ask(Op.GETATTR, bytes(16), node_id)).body, ATTR_AT) == after
            directory = await kernel.opendir()
            listed = (await kernel.reply(kernel.read(directory, 0, 4096, Op.READDIRPLUS))).body
            entry = 0
            shown = {}
            for name, _, _ in names_in(listed, plus=True):
                shown[name] = times_of(listed, entry + ATTR_ENTRY_AT)
                entry += layout.ENTRY.size + layout.ATTR.size + (layout.DIRENT.size + len(name) + 7) // 8 * 8
            assert (shown["a"], shown["b"]) == (after, before)
            await kernel.release(handle)
            await kernel.release(directory, Op.RELEASEDIR)

    run(main())


def test_without_the_switch_an_open_tells_nobody_and_changes_no_time() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            handle = await kernel.open("a")
            kernel.client.accessed["/a"] = ACCESSED_S
            accessed, modified = times_of((await kernel.ask(Op.LOOKUP, b"a\0")).body, ATTR_ENTRY_AT)
            assert (accessed, kernel.sink.notices) == (modified, [])
            await kernel.release(handle)

    run(main())
