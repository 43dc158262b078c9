"""Packed entries: the same entry comes out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forebay.contracts import Entry, Layout
from forebay.contracts.packed import pack_entry, packed_inode, unpack_entry

TEXT = st.text(min_size=1, max_size=20)
COUNT = st.integers(0, (1 << 63) - 1)
HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
LAYOUT = st.builds(Layout, key=TEXT, size=COUNT, fingerprint=TEXT, version_id=HEX, block_size=st.integers(1, 1 << 62))


@given(
    st.builds(
        Entry,
        name=st.text(max_size=20),
        kind=st.sampled_from(["file", "dir"]),
        inode=st.integers(1, (1 << 63) - 1),
        mode=st.integers(0, 0o7777),
        mtime_ns=st.integers(-(1 << 63), (1 << 63) - 1),
        size=COUNT,
        layout=st.none() | LAYOUT,
    ),
    st.text(max_size=5),
)
def test_an_entry_comes_out_as_it_went_in(entry: Entry, folder: str) -> None:
    assert unpack_entry(pack_entry(entry)) == entry
    assert packed_inode(pack_entry(entry)) == entry.inode
    if entry.layout is not None:
        key = f"{folder}{entry.name}" or "k"
        found = Layout(
            key=key,
            size=1,
            fingerprint="f",
            version_id=entry.layout.version_id,
            block_size=1,
        )
        below = Entry(name=entry.name, kind="file", inode=2, mode=0, mtime_ns=0, layout=found)
        assert unpack_entry(pack_entry(below)) == below
