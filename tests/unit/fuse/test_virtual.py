"""``.forebay`` and extended attributes, request by request."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from forebay.telemetry import TraceContext
from forebay.testing import run
from forebay_fuse.errno_door import Refused
from forebay_fuse.flagged import FLAGGED_MAX, FLAGGED_S, Flagged
from forebay_fuse.protocol import layout
from forebay_fuse.protocol.layout import Op
from forebay_fuse.view import BASE, View
from forebay_fuse.virtual import TEXTS_MAX, TRACED, Trace, Traced
from tests.unit.fuse.doubles import BLOCK_SIZE, FakeClient, Kernel, names_in

DATA = bytes(3 * BLOCK_SIZE)


async def text_of(kernel: Kernel, name: str) -> bytes:
    """What ``cat .forebay/name`` shows."""
    folder = await kernel.lookup(".forebay")
    reply = await kernel.ask(Op.LOOKUP, name.encode() + b"\0", folder)
    assert reply.errno == 0
    node_id = layout.ENTRY.unpack_from(reply.body)[0]
    opened = await kernel.ask(Op.OPEN, layout.OPEN_IN.pack(os.O_RDONLY, 0), node_id)
    handle, flags, _ = layout.OPEN_OUT.unpack_from(opened.body)
    assert flags & layout.Open.DIRECT_IO  # its size is not known
    found = b""
    while part := (await kernel.ask(Op.READ, layout.READ_IN.pack(handle, len(found), 100, 0, 0, 0, 0), node_id)).body:
        found += part
    assert (await kernel.ask(Op.RELEASE, layout.RELEASE_IN.pack(handle, 0, 0, 0), node_id)).errno == 0
    assert len(kernel.gateway.virtual) == 0
    return found


def test_the_texts_can_be_read_and_leave_nothing_open() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA})) as kernel:
            assert b"forebay_fuse_inodes" in await text_of(kernel, "stats")
            await kernel.lookup("a")
            assert b"lookup node=1" in await text_of(kernel, "trace")
            assert kernel.client.calls == ["lookup /a"]

    run(main())


def test_the_directory_lists_its_texts_but_the_root_shows_it_only_when_told() -> None:
    async def main() -> None:
        for view, shown in ((View(), False), (View(virtual="shown"), True)):
            async with Kernel(FakeClient({"a": DATA}), view) as kernel:
                for op in (Op.READDIR, Op.READDIRPLUS):
                    handle = await kernel.opendir()
                    reply = await kernel.reply(kernel.read(handle, 0, 4096, op))
                    names = [name for name, _, _ in names_in(reply.body, plus=op == Op.READDIRPLUS)]
                    assert names == [".", "..", *([".forebay"] if shown else []), "a"]
                    # and from each offset it goes on as it would have
                    rest = await kernel.reply(kernel.read(handle, len(names) - 1, 4096, op))
                    assert [n for n, _, _ in names_in(rest.body, plus=op == Op.READDIRPLUS)] == ["a"]
                    inside = await kernel.ask(op, layout.READ_IN.pack(0, 0, 4096, 0, 0, 0, 0), BASE)
                    entries = names_in(inside.body, plus=op == Op.READDIRPLUS)
                    assert [name for name, _, _ in entries] == [".", "..", "stats", "trace", "hints"]

    run(main())


def test_switched_off_it_is_not_there() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({}), View(virtual="off")) as kernel:
            assert await kernel.lookup(".forebay") == 0
            assert (await kernel.ask(Op.GETATTR, bytes(16), BASE)).errno == errno.ESTALE

    run(main())


def test_what_cannot_be_done_there_is_said_by_errno() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({})) as kernel:
            assert (await kernel.ask(Op.LOOKUP, b"nothing\0", BASE)).errno == errno.ENOENT
            assert (await kernel.ask(Op.OPEN, layout.OPEN_IN.pack(os.O_RDWR, 0), BASE + 1)).errno == errno.EROFS
            assert (await kernel.ask(Op.OPEN, bytes(8), BASE)).errno == errno.EISDIR
            assert (await kernel.ask(Op.OPEN, bytes(8), BASE + 99)).errno == errno.ESTALE
            assert (await kernel.ask(Op.UNLINK, b"stats\0", BASE)).errno == errno.EROFS
            assert (await kernel.ask(Op.ACCESS, layout.ACCESS_IN.pack(os.W_OK, 0), BASE + 1)).errno == errno.EROFS
            assert (
                await kernel.ask(Op.GETXATTR, layout.XATTR_IN.pack(9, 0) + b"user.x\0", BASE)
            ).errno == errno.ENODATA
            for _ in range(TEXTS_MAX):
                assert (await kernel.ask(Op.OPEN, bytes(8), BASE + 1)).errno == 0
            assert (await kernel.ask(Op.OPEN, bytes(8), BASE + 1)).errno == errno.ENFILE

    run(main())


def test_a_handle_of_an_earlier_gateway_is_answered() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({})) as kernel:
            reply = await kernel.ask(Op.READ, layout.READ_IN.pack(7, 0, 4096, 0, 0, 0, 0), BASE + 1)
            assert b"forebay_fuse" in reply.body

    run(main())


def test_the_trace_keeps_the_last() -> None:
    trace = Trace()
    for number in range(TRACED + 10):
        trace.add(Traced(1.5, "open", number, 0.25, "ok"))
    lines = trace.text().decode().splitlines()
    assert len(lines) == TRACED
    assert lines[-1] == f"1.500 open node={TRACED + 9} ms=250.0 ok"


async def xattr(kernel: Kernel, node_id: int, name: str, size: int = 4096) -> bytes | int:
    """The value, or the errno."""
    reply = await kernel.ask(Op.GETXATTR, layout.XATTR_IN.pack(size, 0) + name.encode() + b"\0", node_id)
    return reply.errno or reply.body


@pytest.mark.parametrize("is_local", [True, False])
def test_a_file_says_its_version_its_homes_and_what_of_it_is_here(is_local: bool) -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA}, is_local=is_local)) as kernel:
            node_id = await kernel.lookup("a")
            listed = await kernel.ask(Op.LISTXATTR, layout.XATTR_IN.pack(4096, 0), node_id)
            names = listed.body.decode().split("\0")[:-1]
            assert names == [f"user.forebay.{name}" for name in ("fingerprint", "location", "cached")]
            values = [await xattr(kernel, node_id, name) for name in names]
            version = (await kernel.client.lookup("/a")).entry.layout
            assert version is not None
            assert values == [
                version.fingerprint.encode(),
                b"worker-1,worker-1,worker-1",
                b"3/3" if is_local else b"0/3",
            ]
            # its length, too little room, and what is not there
            length = await xattr(kernel, node_id, names[2], 0)
            assert length == layout.XATTR_OUT.pack(3, 0)
            assert await xattr(kernel, node_id, names[2], 2) == errno.ERANGE
            assert await xattr(kernel, node_id, "user.other") == errno.ENODATA
            assert await xattr(kernel, node_id, "security.selinux") == errno.ENOTSUP
            assert await xattr(kernel, node_id, "system.posix_acl_access", 0) == errno.ENOTSUP
            assert await xattr(kernel, 1, names[0]) == errno.ENODATA
            assert (await kernel.ask(Op.LISTXATTR, layout.XATTR_IN.pack(0, 0), 1)).body == layout.XATTR_OUT.pack(0, 0)

    run(main())


def test_without_the_switch_there_are_no_attributes() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA}), View(xattrs=False)) as kernel:
            assert await xattr(kernel, await kernel.lookup("a"), "user.forebay.cached") == errno.ENOSYS

    run(main())


def test_a_flagged_node_has_its_requests_recorded_and_no_other_has() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": DATA, "b": DATA})) as kernel:
            flagged, other = await kernel.lookup("a"), await kernel.lookup("b")
            ring = kernel.telemetry.tracer.ring
            context = TraceContext("ab" * 16, "cd" * 8, True)
            name = f"user.forebay.trace.{context.traceparent()}\0".encode()
            assert (await kernel.ask(Op.GETXATTR, layout.XATTR_IN.pack(0, 0) + name, flagged)).errno == 0
            for node_id in (flagged, other):
                await kernel.ask(Op.GETATTR, bytes(16), node_id)
                opened = await kernel.ask(Op.OPEN, layout.OPEN_IN.pack(os.O_RDONLY, 0), node_id)
                handle = layout.OPEN_OUT.unpack_from(opened.body)[0]
                await kernel.ask(Op.READ, layout.READ_IN.pack(handle, 0, 100, 0, 0, 0, 0), node_id)
            assert {span.name for span in ring.all()} >= {"fuse.open", "fuse.read"}
            assert {span.parent_id for span in ring.of(context.trace_id)} == {context.span_id}
            assert len(ring.all()) == len(ring.of(context.trace_id))
            counts = [span.name for span in ring.all()].count("fuse.read")
            assert counts == 1  # tried at once, then waited for: one span

    run(main())


def test_a_flag_that_names_no_sampled_trace_is_refused_and_one_ends_by_itself() -> None:
    now = [0.0]
    flagged, context = Flagged(lambda: now[0]), TraceContext("ab" * 16, "cd" * 8, True)
    for wrong in (b"", b"nonsense", b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-00"):
        with pytest.raises(Refused):
            flagged.flag(7, wrong)
    flagged.flag(7, context.traceparent().encode())
    assert flagged.of(7) == replace(context, kept=True)
    now[0] = FLAGGED_S
    assert flagged.of(7) is None
    for node_id in range(FLAGGED_MAX + 5):
        flagged.flag(node_id, context.traceparent().encode())
    assert len(flagged) == FLAGGED_MAX
