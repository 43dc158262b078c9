"""The inode table: versions, lookups, forgets."""

from __future__ import annotations

import pytest

from forebay.contracts import Entry, Layout
from forebay.errors import Overloaded
from forebay_fuse.inodes import InodeTable
from forebay_fuse.protocol.layout import ROOT_ID

ROOT = Entry(name="", kind="dir", inode=2, mode=0o555, mtime_ns=0)


def file_entry(version: int) -> Entry:
    layout = Layout(key="a", size=3, fingerprint=f"f{version}", version_id=f"{version:032x}", block_size=1 << 22)
    return Entry(name="a", kind="file", inode=7, mode=0o444, mtime_ns=0, size=3, layout=layout)


def test_a_new_version_of_a_path_is_a_new_node_id_with_the_same_inode_number() -> None:
    table = InodeTable(ROOT, "/", None)
    old = table.look_up("/", file_entry(1), "m")
    new = table.look_up("/", file_entry(2), "m")
    assert old.node_id != new.node_id
    assert old.entry.inode == new.entry.inode
    assert table.get(old.node_id) is old
    table.validate()


def test_the_same_version_is_one_inode_that_lives_until_its_last_lookup_is_forgotten() -> None:
    table = InodeTable(ROOT, "/", None)
    first = table.look_up("/", file_entry(1), "m")
    assert table.look_up("/", file_entry(1), "m") is first
    table.forget(first.node_id, 1)
    assert table.get(first.node_id) is first
    table.forget(first.node_id, 1)
    assert table.get(first.node_id) is None
    assert len(table) == 1
    table.validate()


def test_the_root_is_never_forgotten() -> None:
    table = InodeTable(ROOT, "/", None)
    table.forget(ROOT_ID, 100)
    assert table.get(ROOT_ID) is not None
    table.forget(12345, 1)
    table.validate()


def test_a_node_id_is_never_used_twice() -> None:
    table = InodeTable(ROOT, "/", None)
    first = table.look_up("/", file_entry(1), "m").node_id
    table.forget(first, 1)
    assert table.look_up("/", file_entry(1), "m").node_id != first


def test_a_full_table_refuses_new_inodes_and_keeps_the_old() -> None:
    table = InodeTable(ROOT, "/", None, limit=2)
    kept = table.look_up("/", file_entry(1), "m")
    with pytest.raises(Overloaded):
        table.look_up("/b", file_entry(2), "m")
    assert table.look_up("/", file_entry(1), "m") is kept
    table.validate()
