"""A gateway under requests that no kernel would send: each gets at most one reply, and the session goes on."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.testing import run
from forebay_fuse.protocol import layout
from forebay_fuse.protocol.layout import Op
from tests.fuzz.targets import NODES
from tests.unit.fuse.doubles import FakeClient, Kernel

FILES = {"a": b"data" * 5000, "b": b""}
BODY = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([b"a\0", b"b\0", b"none\0", bytes(8)]),
    st.builds(layout.READ_IN.pack, *(st.integers(0, 3), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)),
              *(st.just(0),) * 4),
    st.builds(layout.RELEASE_IN.pack, st.integers(0, 3), *(st.just(0),) * 3),
    st.builds(layout.FORGET_IN.pack, st.integers(0, 3)),
    st.builds(layout.WRITE_IN.pack, st.integers(0, 3), st.just(0), st.integers(0, 3), *(st.just(0),) * 4).map(
        lambda head: head + b"/a"
    ),
    st.binary(max_size=9).map(lambda name: layout.XATTR_IN.pack(64, 0) + name + b"\0"),
)  # fmt: skip
REQUEST = st.tuples(st.sampled_from([*map(int, Op), 0, 77]), BODY, st.sampled_from(NODES))


@given(st.lists(REQUEST, max_size=30), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_requests_are_answered_once_and_never_end_the_session(
    wanted: list[tuple[int, bytes, int]], local: bool
) -> None:
    async def main() -> None:
        async with Kernel(FakeClient(FILES, is_local=local)) as kernel:
            sent = [(op, kernel.send(op, body, node_id)) for op, body, node_id in wanted]
            await kernel.idle()
            for op, unique in sent:
                assert (unique in kernel.sink.replies) == (op not in layout.SILENT)
            assert await kernel.lookup("a")

    run(main())


@given(st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_survived(data: bytes) -> None:
    async def main() -> None:
        async with Kernel(FakeClient(FILES)) as kernel:
            kernel.gateway.handle(memoryview(data))
            await kernel.idle()

    run(main())
