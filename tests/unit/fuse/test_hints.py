"""``.forebay/hints``, request by request: an order is taken when it is closed, everything else stays read-only."""

from __future__ import annotations

import errno
import os

import pytest

from forebay.errors import InvalidRequest
from forebay.testing import run
from forebay_fuse.hints import BYTES_MAX, ORDERS_MAX, Order, parse
from forebay_fuse.protocol import layout
from forebay_fuse.protocol.layout import Op
from forebay_fuse.view import View
from tests.unit.fuse.doubles import FakeClient, Kernel

WRITE_ONLY = layout.OPEN_IN.pack(os.O_WRONLY, 0)


async def node_of(kernel: Kernel, name: str) -> int:
    folder = await kernel.lookup(".forebay")
    reply = await kernel.ask(Op.LOOKUP, name.encode() + b"\0", folder)
    assert reply.errno == 0
    return int(layout.ENTRY.unpack_from(reply.body)[0])


def write(handle: int, offset: int, data: bytes) -> bytes:
    return layout.WRITE_IN.pack(handle, offset, len(data), 0, 0, 0, 0) + data


async def opened(kernel: Kernel, node_id: int) -> int:
    reply = await kernel.ask(Op.OPEN, WRITE_ONLY, node_id)
    assert reply.errno == 0
    handle, flags, _ = layout.OPEN_OUT.unpack_from(reply.body)
    assert not flags & layout.Open.NOFLUSH  # else nobody would tell that it is closed
    return int(handle)


async def closed(kernel: Kernel, node_id: int, handle: int) -> int:
    """What ``close`` fails with."""
    flushed = await kernel.ask(Op.FLUSH, layout.FLUSH_IN.pack(handle, 0, 0, 0), node_id)
    assert (await kernel.ask(Op.RELEASE, layout.RELEASE_IN.pack(handle, 0, 0, 0), node_id)).errno == 0
    return flushed.errno


def test_an_order_is_told_when_it_is_closed_and_once() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": b"", "b": b""})) as kernel:
            node_id = await node_of(kernel, "hints")
            handle = await opened(kernel, node_id)
            truncate = layout.SETATTR_VALID.pack(layout.SETS_SIZE, 0) + bytes(80)
            assert (await kernel.ask(Op.SETATTR, truncate, node_id)).errno == 0
            for offset, data in ((0, b"# epoch=3 rank=1 next=1\nb"), (25, b"\na\n")):
                reply = await kernel.ask(Op.WRITE, write(handle, offset, data), node_id)
                assert layout.WRITE_OUT.unpack(reply.body)[0] == len(data)
            assert kernel.client.hinted == []

            assert await closed(kernel, node_id, handle) == 0

            assert kernel.client.hinted == [(("/b", "/a"), 3, 0, 1, True)]
            assert len(kernel.gateway.virtual) == 0

    run(main())


def test_an_order_whose_handle_is_released_before_it_was_told_is_told_all_the_same() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": b""})) as kernel:
            node_id = await node_of(kernel, "hints")
            handle = await opened(kernel, node_id)
            await kernel.ask(Op.WRITE, write(handle, 0, b"a\n"), node_id)

            flush = kernel.send(Op.FLUSH, layout.FLUSH_IN.pack(handle, 0, 0, 0), node_id)
            kernel.send(Op.RELEASE, layout.RELEASE_IN.pack(handle, 0, 0, 0), node_id)

            assert (await kernel.reply(flush)).errno == 0
            assert kernel.client.hinted == [(("/a",), 0, 0, 0, False)]
            assert len(kernel.gateway.virtual) == 0

    run(main())


def test_close_fails_with_what_is_wrong_and_the_text_says_it() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": b""})) as kernel:
            node_id = await node_of(kernel, "hints")
            for text, number in (
                (b"a\ngone\n", errno.ENOENT),
                (b"# epoch=x\na\n", errno.EINVAL),
                (b"\xff", errno.EINVAL),
            ):
                handle = await opened(kernel, node_id)
                await kernel.ask(Op.WRITE, write(handle, 0, text), node_id)
                assert await closed(kernel, node_id, handle) == number
                assert kernel.gateway.virtual.text_of("hints").startswith(b"refused: ")
            assert kernel.client.hinted == []

    run(main())


def test_an_order_is_written_from_its_beginning_and_has_a_limit() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({})) as kernel:
            node_id = await node_of(kernel, "hints")
            handle = await opened(kernel, node_id)
            assert (await kernel.ask(Op.WRITE, write(handle, 5, b"a"), node_id)).errno == errno.ESPIPE
            hints = kernel.gateway.virtual.hints
            assert hints is not None
            hints.write(handle, 0, bytes(BYTES_MAX))
            assert (await kernel.ask(Op.WRITE, write(handle, BYTES_MAX, b"a"), node_id)).errno == errno.EFBIG
            for _ in range(ORDERS_MAX - 1):
                await opened(kernel, node_id)
            assert (await kernel.ask(Op.OPEN, WRITE_ONLY, node_id)).errno == errno.ENFILE

    run(main())


def test_other_texts_and_other_changes_are_refused_and_so_are_hints_that_are_off() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({})) as kernel:
            hints, stats = await node_of(kernel, "hints"), await node_of(kernel, "stats")
            chmod = layout.SETATTR_VALID.pack(1, 0) + bytes(80)
            assert (await kernel.ask(Op.OPEN, WRITE_ONLY, stats)).errno == errno.EROFS
            assert (await kernel.ask(Op.WRITE, write(1, 0, b"a"), stats)).errno == errno.EROFS
            assert (await kernel.ask(Op.SETATTR, chmod, hints)).errno == errno.EROFS
            assert (await kernel.ask(Op.SETATTR, chmod, stats)).errno == errno.EROFS
        async with Kernel(FakeClient({}), View(hints=False)) as kernel:
            folder = await kernel.lookup(".forebay")
            assert (await kernel.ask(Op.LOOKUP, b"hints\0", folder)).errno == errno.ENOENT

    run(main())


def test_a_hint_is_paths_below_the_mount_and_perhaps_a_first_line() -> None:
    assert parse(b"x/a\n/b\n\n", "/data/") == Order(["/data/x/a", "/data/b"])
    assert parse(b"#  seed=7 epoch=2\na", "/") == Order(["/a"], epoch=2, seed=7)
    assert parse(b"# next=1 epoch=3\na", "/") == Order(["/a"], epoch=3, is_next=True)
    assert parse(b"# next=0\na", "/") == Order(["/a"])
    assert parse(b"", "/") == Order([])
    with pytest.raises(InvalidRequest, match="first line"):
        parse(b"# next=2\n", "/")
    with pytest.raises(InvalidRequest, match="first line"):
        parse(b"# order=1\n", "/")
