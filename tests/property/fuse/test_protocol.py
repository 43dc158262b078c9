"""The FUSE protocol under random bytes: a request is decoded or refused, nothing else happens."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from forebay_fuse.protocol import layout, replies, requests
from forebay_fuse.protocol.layout import Op
from forebay_fuse.protocol.replies import Attributes
from forebay_fuse.protocol.requests import ProtocolError
from tests.fuzz.targets import READERS


def message(opcode: int, body: bytes, *, unique: int = 9, node_id: int = 1) -> memoryview:
    head = layout.IN_HEADER.pack(layout.IN_HEADER.size + len(body), opcode, unique, node_id, 0, 0, 0, 0, 0)
    return memoryview(head + body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        request = requests.decode(memoryview(data))
    except ProtocolError:
        return
    assert len(request.body) == len(data) - layout.IN_HEADER.size


@given(st.sampled_from(list(Op)), st.binary(max_size=120))
def test_any_body_is_read_or_refused_by_every_reader(op: Op, body: bytes) -> None:
    request = requests.decode(message(op, body))
    refused: list[int] = []
    for read in READERS:
        try:
            read(request)
        except ProtocolError as e:
            refused.append(e.unique)
    assert set(refused) <= {9}


@given(st.integers(0, 64), st.binary(max_size=100))
def test_a_batch_of_forgets_never_reads_past_its_body(count: int, body: bytes) -> None:
    request = requests.decode(message(Op.BATCH_FORGET, layout.BATCH_FORGET_IN.pack(count, 0) + body))
    if len(body) >= count * layout.FORGET_ONE.size:
        assert len(requests.forgets(request)) == count
    else:
        try:
            requests.forgets(request)
        except ProtocolError:
            return
        raise AssertionError("a short batch was accepted")


@given(st.binary(min_size=1, max_size=255).filter(lambda n: b"\0" not in n))
def test_a_name_is_read_up_to_its_end(name: bytes) -> None:
    assert requests.name_in(requests.decode(message(Op.LOOKUP, name + b"\0"))) == name


@given(st.integers(1, 2**63 - 1), st.integers(0, 2**50), st.integers(-(2**62), 2**62), st.integers(0, 0o177777))
def test_attributes_keep_inode_size_time_and_mode(inode: int, size: int, mtime_ns: int, mode: int) -> None:
    data = replies.attr(Attributes(inode, size, mtime_ns, mode, 1, 2))
    fields = layout.ATTR.unpack(data)
    assert fields[0:2] == (inode, size)
    seconds = struct.unpack("<q", struct.pack("<Q", fields[4]))[0]
    assert seconds * replies.NS + fields[7] == mtime_ns
    assert fields[9] == mode


@given(st.integers(1, 2**63 - 1), st.integers(-(2**62), 2**62), st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_reply_in_one_piece_is_the_header_and_its_structures(
    inode: int, mtime_ns: int, entry_s: float, attr_s: float
) -> None:
    a, times = Attributes(inode, 4097, mtime_ns, 0o100444, 1, 2), replies.timeouts(entry_s, attr_s)
    assert replies.looked_up(77, 5, a, times) == replies.ok(77, replies.entry_out(5, a, times))
    assert replies.attributes_of(77, a, attr_s) == replies.ok(77, replies.attr_out(a, attr_s))


@given(st.binary(min_size=1, max_size=255), st.integers(1, 2**62))
def test_directory_entries_are_aligned_and_tell_where_to_go_on(name: bytes, offset: int) -> None:
    data = replies.dirent(5, offset, name, replies.FILE_TYPE)
    assert len(data) % 8 == 0
    inode, off, length, kind = layout.DIRENT.unpack_from(data)
    assert (inode, off, kind) == (5, offset, replies.FILE_TYPE)
    assert data[layout.DIRENT.size : layout.DIRENT.size + length] == name


def test_sizes_are_the_kernels() -> None:
    sizes = {
        "in_header": (layout.IN_HEADER.size, 40),
        "out_header": (layout.OUT_HEADER.size, 16),
        "attr": (layout.ATTR.size, 88),
        "entry_out": (layout.ENTRY.size + layout.ATTR.size, 128),
        "attr_out": (layout.ATTR_OUT.size + layout.ATTR.size, 104),
        "open_out": (layout.OPEN_OUT.size, 16),
        "read_in": (layout.READ_IN.size, 40),
        "init_out": (layout.INIT_OUT.size, 64),
        "statfs_out": (layout.STATFS_OUT.size, 80),
    }
    assert {name: ours for name, (ours, _) in sizes.items()} == {name: theirs for name, (_, theirs) in sizes.items()}
