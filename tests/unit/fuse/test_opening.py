"""OPEN: which way of reading is chosen, one mode and one backing file for each inode, and what is left afterwards."""

from __future__ import annotations

import errno
import os

import pytest

from forebay.contracts.packed import pack_entry
from forebay.errors import DeadlineExceeded, StaleVersion
from forebay.testing import run
from forebay_fuse.journal import InitRecord, InodeRecord, Kept, OpenRecord
from forebay_fuse.passing import IMPATIENT_MAX_S, Patience
from forebay_fuse.protocol import layout
from forebay_fuse.protocol.layout import Op
from forebay_fuse.view import View
from tests.unit.fuse.doubles import BLOCK_SIZE, FakeClient, Kernel

DATA = bytes(range(256)) * 4
PASS = int(layout.Open.PASSTHROUGH | layout.Open.NOFLUSH)
CACHE = int(layout.Open.KEEP_CACHE | layout.Open.NOFLUSH)


def test_a_whole_file_of_this_host_passes_through_and_its_backing_file_has_the_bytes() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        client.whole.add("a")
        async with Kernel(client) as kernel:
            await kernel.init()
            handle, flags, backing_id = await kernel.opened("a")
            assert flags == PASS
            assert os.pread(kernel.backings.files[backing_id], 10_000, 0) == DATA
            assert client.opened[0].fd == -1  # ours is closed, the block still counts as open
            assert client.opened[0].is_open
            assert kernel.metric("forebay_fuse_backing_files") == 1
            await kernel.release(handle)
            assert kernel.metric('forebay_fuse_opens_total{mode="passthrough"}') == 1

    run(main())


def test_further_opens_share_the_backing_file_and_the_last_release_gives_it_back() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        client.whole.add("a")
        async with Kernel(client) as kernel:
            await kernel.init()
            first, second = await kernel.opened("a"), await kernel.opened("a")
            assert first[1:] == second[1:]
            assert [block.opens for block in client.opened] == [2]
            await kernel.release(first[0])
            assert set(kernel.backings.files) == {first[2]}
            await kernel.release(second[0])
            assert not kernel.backings.files

    run(main())


def test_an_inode_that_is_open_cached_stays_cached_until_the_last_close_and_is_passed_through_then() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        async with Kernel(client) as kernel:
            await kernel.init()
            first = await kernel.opened("a")
            client.whole.add("a")  # the block became complete meanwhile
            second = await kernel.opened("a")
            assert [first[1], second[1]] == [CACHE, CACHE]
            for handle in (first[0], second[0]):
                await kernel.release(handle)
            handle, flags, _ = await kernel.opened("a")
            assert flags == PASS
            client.whole.clear()  # evicted: whoever has it open keeps it, and so does the next open
            again, flags, _ = await kernel.opened("a")
            assert flags == PASS
            await kernel.release(handle)
            await kernel.release(again)
            assert (await kernel.opened("a"))[1] == CACHE

    run(main())


def test_a_read_of_a_file_that_is_passed_through_is_answered_all_the_same() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        client.whole.add("a")
        async with Kernel(client) as kernel:
            await kernel.init()
            handle = await kernel.open("a")
            assert client.readers == []
            assert (await kernel.reply(kernel.read(handle, 5, 4096))).body == DATA[5:]
            await kernel.release(handle)
            assert client.readers[0].is_closed

    run(main())


@pytest.mark.parametrize(
    ("view", "offer", "flags"),
    [
        (View(passthrough=False), -1, CACHE),
        (View(direct_io=True), -1, int(layout.Open.DIRECT_IO | layout.Open.NOFLUSH)),
        (View(), ~int(layout.Init.PASSTHROUGH), CACHE),
    ],
)
def test_without_the_switch_or_the_kernels_consent_nothing_passes_through(view: View, offer: int, flags: int) -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        client.whole.add("a")
        async with Kernel(client, view) as kernel:
            agreed = await kernel.init(offer & ((1 << 64) - 1))
            assert agreed[10] >> 5 & 1 == 0  # FUSE_PASSTHROUGH, in the second word
            assert agreed[11] == 0  # max_stack_depth
            assert (await kernel.opened("a"))[1:] == (flags, 0)

    run(main())


@pytest.mark.parametrize(("number", "calls"), [(errno.EPERM, 1), (errno.ELOOP, 2)])
def test_a_refused_backing_file_is_read_otherwise_and_asked_for_again_only_if_that_may_help(
    number: int, calls: int
) -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA, "b": DATA})
        client.whole |= {"a", "b"}
        async with Kernel(client) as kernel:
            await kernel.init()
            kernel.backings.error = number
            for name in ("a", "b"):
                handle, flags, _ = await kernel.opened(name)
                assert flags == CACHE
                assert (await kernel.reply(kernel.read(handle, 0, 4096))).body == DATA
            assert kernel.metric("forebay_fuse_passthrough_refused_total") == calls

    run(main())


def test_a_file_of_several_blocks_or_none_is_never_passed_through() -> None:
    async def main() -> None:
        client = FakeClient({"large": bytes(BLOCK_SIZE + 1), "empty": b""})
        client.whole |= {"large", "empty"}
        async with Kernel(client) as kernel:
            await kernel.init()
            assert [(await kernel.opened(name))[1] for name in ("large", "empty")] == [CACHE, CACHE]
            assert client.opened == []

    run(main())


def test_a_small_file_whose_home_is_here_is_fetched_by_its_open_and_passed_through() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA, "large": DATA * 4})
        client.home_here = True
        async with Kernel(client, View(small_file_bytes=len(DATA))) as kernel:
            await kernel.init()
            assert (await kernel.opened("a"))[1] == PASS
            assert client.readers[0].is_closed
            assert (await kernel.opened("large"))[1] == CACHE

    run(main())


def test_a_small_file_that_does_not_become_a_block_file_is_read_otherwise_and_the_next_is_not_waited_for() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA, "b": DATA})
        client.home_here, client.seals = True, False
        async with Kernel(client) as kernel:
            await kernel.init()
            handle, flags, _ = await kernel.opened("a")
            assert flags == CACHE
            assert (await kernel.reply(kernel.read(handle, 0, 4096))).body == DATA
            node_id = await kernel.lookup("b")
            unique = kernel.send(Op.OPEN, bytes(8), node_id)
            assert unique in kernel.sink.replies

    run(main())


def test_two_opens_that_fetch_the_same_small_file_share_one_backing_file() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        client.home_here = True
        async with Kernel(client) as kernel:
            await kernel.init()
            node_id = await kernel.lookup("a")
            uniques = [kernel.send(Op.OPEN, bytes(8), node_id) for _ in range(3)]
            opened = [layout.OPEN_OUT.unpack_from((await kernel.reply(u)).body) for u in uniques]
            assert {flags for _, flags, _ in opened} == {PASS}
            assert len({backing_id for _, _, backing_id in opened}) == 1
            assert len(kernel.backings.files) == 1

    run(main())


def test_a_small_file_that_was_replaced_is_estale_at_open_and_its_name_is_dropped() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        client.home_here = True
        async with Kernel(client) as kernel:
            await kernel.init()
            for error, number in ((StaleVersion("new"), errno.ESTALE), (DeadlineExceeded("late"), 0)):
                client.read_error, client.seals = error, False
                node_id = await kernel.lookup("a")
                assert (await kernel.ask(Op.OPEN, bytes(8), node_id)).errno == number
            assert client.forgotten == ["/a"]

    run(main())


def test_an_open_that_the_kernel_did_not_take_leaves_nothing_open() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        client.whole.add("a")
        async with Kernel(client) as kernel:
            await kernel.init()
            node_id = await kernel.lookup("a")
            kernel.sink.takes = False
            await kernel.ask(Op.OPEN, bytes(8), node_id)
            assert not kernel.gateway.handles
            assert not kernel.backings.files
            kernel.sink.takes = True

    run(main())


def test_patience_grows_shorter_with_each_miss_and_returns_with_success() -> None:
    patience = Patience()
    assert patience.allows(0.0)
    waits = []
    for _ in range(10):
        patience = patience.missed(100.0)
        waits.append(patience.until_s - 100.0)
        assert not patience.allows(100.0)
        assert patience.allows(patience.until_s)
    assert waits[:3] == [1.0, 2.0, 4.0]
    assert waits[-1] == IMPATIENT_MAX_S
    assert patience.met() == Patience()


def test_a_successor_goes_on_with_what_passes_through_and_gives_it_back_in_the_end() -> None:
    async def main() -> None:
        client = FakeClient({"a": DATA})
        client.whole.add("a")
        async with Kernel(client) as kernel:
            entry = (await client.lookup("/a")).entry
            kernel.backings.files[7] = os.open("/dev/null", os.O_RDONLY)
            opens = {fh: OpenRecord(5, "passthrough", 7) for fh in (3, 4)}
            flags = int(layout.Init.PASSTHROUGH)
            kept = Kept(
                inodes={5: InodeRecord("/", pack_entry(entry), entry.inode, False, "m", 2)},
                opens=opens,
                init=InitRecord(45, flags, 256, 64),
                node_max=9,
                fh_max=4,
            )
            kernel.gateway.restore(kept)
            assert [block.is_open for block in client.opened] == [True]  # the worker goes on hearing of it
            assert (await kernel.ask(Op.GETATTR, bytes(16), 5)).errno == 0
            assert (await kernel.reply(kernel.read(3, 0, 4096))).body == DATA
            # a further open shares the backing file, under numbers that were never used
            reply = await kernel.ask(Op.OPEN, bytes(8), 5)
            handle, found, backing_id = layout.OPEN_OUT.unpack_from(reply.body)
            assert (handle, found, backing_id) == (5, PASS, 7)
            for each in (3, 4, 5):
                assert 7 in kernel.backings.files
                await kernel.release(each)
            assert 7 not in kernel.backings.files
            client.files["b"] = DATA
            assert await kernel.lookup("b") == 10

    run(main())
