"""The master's change feed: which names the kernel is told to forget, and answers that were under way meanwhile."""

from __future__ import annotations

import asyncio
import struct

import pytest

from forebay.contracts import Change, ChangesReply
from forebay.errors import PeerUnavailable
from forebay.testing import run
from forebay_fuse.inodes import OUTDATED
from forebay_fuse.protocol import layout, replies
from forebay_fuse.protocol.layout import Op
from forebay_fuse.recent import Recent
from tests.unit.fuse.doubles import BLOCK_SIZE, FakeClient, Kernel, names_in

OLD, NEW = b"old" * 1000, b"new" * 1001
ROOT_ATTRIBUTES = replies.invalidate_attributes(layout.ROOT_ID)


def told(*changes: tuple[str, str], reset: bool = False, cursor: str = "c-2") -> ChangesReply:
    """An answer of the feed: (path, kind)…"""
    found = tuple(Change(mount_id="m", path=path, kind=kind) for path, kind in changes)  # type: ignore[arg-type]  # words
    return ChangesReply(cursor=cursor, reset=reset, changes=found)


async def watched(kernel: Kernel) -> Kernel:
    """A feed that has told its first cursor, and what that said is forgotten."""
    await kernel.gateway.changes.take(told(cursor="c-1"))
    kernel.sink.notices.clear()
    kernel.client.forgotten.clear()
    return kernel


@pytest.mark.parametrize("kind", ["changed", "removed", "added"])
def test_a_name_that_changed_is_forgotten_by_the_kernel_and_by_the_sdk(kind: str) -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": OLD})) as kernel:
            await kernel.lookup("a")
            await watched(kernel)
            await kernel.gateway.changes.take(told(("/a", kind)))
            assert kernel.sink.notices == [replies.invalidate_entry(layout.ROOT_ID, b"a")]
            assert kernel.client.forgotten == ["/a"]
            assert kernel.inodes.root.good_until_s == OUTDATED
            assert kernel.gateway.changes.cursor == "c-2"
            assert kernel.metric(f'forebay_fuse_changes_total{{kind="{kind}"}}') == 1

    run(main())


def test_the_new_version_gets_a_new_node_id_and_the_open_handle_keeps_the_old() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": OLD})) as kernel:
            await watched(kernel)
            before, handle = await kernel.lookup("a"), await kernel.open("a")
            kernel.client.files["a"] = NEW
            await kernel.gateway.changes.take(told(("/a", "changed")))
            assert await kernel.lookup("a") != before
            assert (await kernel.reply(kernel.read(handle, 0, BLOCK_SIZE))).body == OLD
            again = await kernel.open("a")
            assert (await kernel.reply(kernel.read(again, 0, BLOCK_SIZE))).body == NEW
            await kernel.release(handle)
            await kernel.release(again)

    run(main())


@pytest.mark.parametrize("how", ["reset", "dir", "first"])
def test_where_anything_may_have_changed_every_known_name_is_forgotten(how: str) -> None:
    async def main() -> None:
        names = [f"name-{number}" for number in range(600)]
        async with Kernel(FakeClient(dict.fromkeys(names, OLD))) as kernel:
            if how != "first":
                await watched(kernel)
            for name in names:
                await kernel.lookup(name)
            await kernel.gateway.changes.take(told(*([("/", "dir")] if how == "dir" else []), reset=how == "reset"))
            wanted = {replies.invalidate_entry(layout.ROOT_ID, name.encode()) for name in names}
            assert set(kernel.sink.notices) == wanted | {ROOT_ATTRIBUTES}

    run(main())


def test_a_lookup_that_was_under_way_when_its_name_changed_is_asked_again() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": OLD, "b": OLD})) as kernel:
            await watched(kernel)
            kernel.client.gate.clear()
            first, other = kernel.send(Op.LOOKUP, b"a\0"), kernel.send(Op.LOOKUP, b"b\0")
            while len(kernel.client.calls) < 2:
                await asyncio.sleep(0)
            await kernel.gateway.changes.take(told(("/a", "changed")))
            kernel.client.gate.set()
            await kernel.reply(first)
            await kernel.reply(other)
            assert sorted(kernel.client.calls) == ["lookup /a", "lookup /a", "lookup /b"]
            assert kernel.client.forgotten == ["/a", "/a"]

    run(main())


def test_a_listing_that_was_under_way_when_a_name_changed_tells_names_and_no_attributes() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": OLD, "b": OLD})) as kernel:
            await watched(kernel)
            handle = await kernel.opendir()
            kernel.client.gate.clear()
            listed = kernel.read(handle, 0, 4096, Op.READDIRPLUS)
            while not kernel.client.calls:
                await asyncio.sleep(0)
            await kernel.gateway.changes.take(told(("/a", "changed")))
            kernel.client.gate.set()
            found = names_in((await kernel.reply(listed)).body, plus=True)
            assert [(name, node_id) for name, _, node_id in found][2:] == [("a", 0), ("b", 0)]
            assert set(kernel.client.forgotten) == {"/a", "/b"}
            await kernel.release(handle, Op.RELEASEDIR)

    run(main())


def test_the_root_is_asked_anew_after_a_change_in_it() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": OLD})) as kernel:
            await watched(kernel)
            for _ in range(2):  # the beginning of a feed is a change of everything
                await kernel.ask(Op.GETATTR, bytes(16))
                assert kernel.client.calls == ["lookup /"]
            kernel.client.calls.clear()
            await kernel.gateway.changes.take(told(("/a", "changed")))
            await kernel.ask(Op.GETATTR, bytes(16))
            assert kernel.client.calls == ["lookup /"]
            await kernel.ask(Op.GETATTR, bytes(16))
            assert kernel.client.calls == ["lookup /"]

    run(main())


def test_a_feed_that_fails_is_asked_again_where_it_ended() -> None:
    async def main() -> None:
        client = FakeClient({})
        async with Kernel(client) as kernel:
            for news in (told(cursor="c-7"), PeerUnavailable("no master"), told(cursor="c-8")):
                client.news.put_nowait(news)
            watch = asyncio.create_task(kernel.gateway.changes.watch())
            while len(client.calls) < 4:
                await asyncio.sleep(0.01)
            watch.cancel()
            await asyncio.wait([watch])
            assert client.calls == ["changes None", "changes c-7", "changes c-7", "changes c-8"]

    run(main())


def test_recent_changes_are_known_by_number_and_what_is_no_longer_known_is_everything() -> None:
    recent = Recent(kept_max=3)
    recent.tell("/a/x", below=False)
    recent.tell("/b", below=True)
    assert recent.covers("/a/x", 0)
    assert not recent.covers("/a/x", 1)
    assert recent.covers("/b/c/d", 1)
    assert not recent.covers("/bb", 1)
    assert recent.lies_in("/a", 0)
    assert not recent.lies_in("/a", 1)
    assert recent.lies_in("/", 1)
    assert recent.lies_in("/b", 1)
    assert recent.lies_in("/b/c", 1)
    assert not recent.covers("/b", 2)
    for number in range(3):
        recent.tell(f"/{number}", below=False)
    assert recent.covers("/anything", 0)
    assert not recent.covers("/anything", 2)


def test_notifications_have_the_kernels_form() -> None:
    assert replies.invalidate_attributes(7) == struct.pack("<IiQQqq", 40, 2, 0, 7, -1, 0)
    assert replies.invalidate_entry(7, b"ab") == struct.pack("<IiQQII", 35, 3, 0, 7, 2, 0) + b"ab\0"
    assert replies.invalidate_entry(7, b"ab", expire=True) == struct.pack("<IiQQII", 35, 3, 0, 7, 2, 1) + b"ab\0"
