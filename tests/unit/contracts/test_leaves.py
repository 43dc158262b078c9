"""Names as columns: what goes in comes out as records, and strange bytes are refused."""

from __future__ import annotations

import msgspec
import pytest

from forebay.contracts import identity
from forebay.contracts.leaves import (
    DIRECTORY_BIT,
    LEAF_VERSION,
    Leaf,
    Shared,
    cut,
    decode_leaf,
    encode_leaf,
    entries,
)
from forebay.errors import InvalidRequest

LEAF = Leaf(LEAF_VERSION, ["a", "d", "é"], [0o644, DIRECTORY_BIT | 0o555, 0o444], [5, 0, 7], [1, -2, 3], ["f", "", "g"])
SHARED = Shared(mount_path="/m", directory="x/y", ufs_id="0" * 32, full_prefix="p/x/y", block_size=8)


def test_a_leaf_comes_back_from_its_bytes() -> None:
    assert decode_leaf(encode_leaf(LEAF)) == LEAF
    assert cut(LEAF, 1, 2).names == ["d"]


def test_records_have_the_identity_that_follows_from_their_names() -> None:
    first, directory, last = entries(SHARED, (LEAF,))
    assert (first.name, first.kind, first.size, first.mtime_ns, first.mode) == ("a", "file", 5, 1, 0o644)
    assert first.inode == identity.inode_number("/m", "x/y/a")
    assert first.layout is not None
    assert first.layout.version_id == identity.version_id("0" * 32, "p/x/y/a", "f")
    assert (first.layout.key, first.layout.size, first.layout.block_size) == ("x/y/a", 5, 8)
    assert (directory.kind, directory.mode, directory.mtime_ns, directory.layout) == ("dir", 0o555, -2, None)
    assert last.layout is not None
    assert last.layout.version_id == identity.version_id("0" * 32, "p/x/y/é", "g")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode_leaf(LEAF)[:-1],
        encode_leaf(msgspec.structs.replace(LEAF, version=LEAF_VERSION + 1)),
        encode_leaf(msgspec.structs.replace(LEAF, sizes=[1])),
        encode_leaf(msgspec.structs.replace(LEAF, sizes=[1, -1, 1])),
        encode_leaf(msgspec.structs.replace(LEAF, modes=[1, 2, 1 << 20])),
    ],
)
def test_bytes_that_are_no_leaf_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_leaf(data)
