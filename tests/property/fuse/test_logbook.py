"""The journal's form: what is written is what is read, and a log that ends anywhere says what its whole groups say."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from forebay.contracts import Entry, Layout
from forebay.contracts.packed import pack_entry
from forebay_fuse import logbook
from forebay_fuse.journal import InitRecord, InodeRecord, OpenRecord, SessionRecord
from forebay_fuse.logbook import LogEntry

U64 = st.integers(0, (1 << 64) - 1)
NUMBERS = st.integers(1, 6)
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
HEX = st.binary(min_size=16, max_size=16).map(bytes.hex)


@st.composite
def records(draw: st.DrawFn) -> InodeRecord:
    """A file or a directory."""
    number = draw(st.integers(1, (1 << 63) - 1))
    fields: dict[str, Any] = {"name": draw(NAMES), "inode": number, "mode": 0o444, "mtime_ns": draw(st.integers(-9, 9))}
    if draw(st.booleans()):
        size = draw(st.integers(0, 1 << 50))
        layout = Layout(key="k", size=size, fingerprint=draw(NAMES), version_id=draw(HEX), block_size=4096)
        entry = Entry(kind="file", size=size, layout=layout, **fields)
    else:
        entry = Entry(kind="dir", **fields)
    directory = "/" + "/".join(draw(st.lists(NAMES, max_size=3)))
    is_dir, mount_id = entry.kind == "dir", draw(st.none() | NAMES)
    return InodeRecord(directory, pack_entry(entry), number, is_dir, mount_id, draw(st.integers(1, 9)))


ENTRIES: st.SearchStrategy[LogEntry] = st.one_of(
    st.builds(logbook.InodeEntry, NUMBERS, records()),
    st.builds(logbook.LookupsEntry, NUMBERS, st.integers(0, 3)),
    st.builds(
        logbook.OpenedEntry, NUMBERS, NUMBERS, st.sampled_from(["cached", "direct", "passthrough", "dir"]), st.just(0)
    ),
    st.builds(logbook.ReleasedEntry, NUMBERS),
    st.builds(logbook.InitEntry, st.integers(0, 99), U64, st.integers(1, 256), st.integers(1, 64)),
    st.builds(logbook.HighestEntry, NUMBERS, NUMBERS),
    st.builds(logbook.session_entry, st.builds(SessionRecord, NAMES, NAMES, NAMES, st.booleans(), st.none() | NAMES)),
)
GROUPS = st.lists(st.tuples(U64, st.lists(ENTRIES, max_size=4)), max_size=8)


def written(groups: list[tuple[int, list[LogEntry]]]) -> bytes:
    """A log of these groups."""
    return logbook.MAGIC + b"".join(logbook.encode(unique, entries) for unique, entries in groups)


def said(log: bytes) -> Any:
    """What a successor hears."""
    tables = logbook.Tables()
    for framed in logbook.groups(log):
        tables.add(framed.group.entries)
    return tables.kept()


@given(records())
def test_an_inode_comes_back_as_it_was(record: InodeRecord) -> None:
    log = written([(2, [logbook.InodeEntry(5, record)])])
    assert said(log).inodes == {5: record}


@given(GROUPS)
def test_groups_come_back_as_they_were(groups: list[tuple[int, list[LogEntry]]]) -> None:
    log = written(groups)
    assert logbook.is_log(log)
    assert [(f.group.unique, list(f.group.entries)) for f in logbook.groups(log)] == groups


@given(GROUPS, st.data())
def test_a_log_cut_at_any_byte_says_what_its_whole_groups_say(
    groups: list[tuple[int, list[LogEntry]]], data: st.DataObject
) -> None:
    log = written(groups)
    ends = [len(logbook.MAGIC), *(f.end for f in logbook.groups(log))]
    at = data.draw(st.integers(len(logbook.MAGIC), len(log)))
    torn = log[:at] + data.draw(st.sampled_from([b"", bytes(64)]))  # a file that has grown reads as zeros
    whole = sum(torn[:end] == log[:end] for end in ends) - 1  # zeros may be just what was cut off
    assert said(torn) == said(written(groups[:whole]))


@given(GROUPS, st.data())
def test_a_damaged_byte_never_raises_and_never_changes_what_came_before_it(
    groups: list[tuple[int, list[LogEntry]]], data: st.DataObject
) -> None:
    log = bytearray(written([*groups, (2, [logbook.ReleasedEntry(1)])]))
    at = data.draw(st.integers(len(logbook.MAGIC), len(log) - 1))
    log[at] ^= data.draw(st.integers(1, 255))
    before = [f for f in logbook.groups(written(groups)) if f.end <= at]
    found = list(logbook.groups(bytes(log)))
    assert found == before  # nothing after the damage counts, and nothing in it


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(data: bytes) -> None:
    said(logbook.MAGIC + data)


@given(GROUPS)
def test_a_log_written_anew_says_the_same(groups: list[tuple[int, list[LogEntry]]]) -> None:
    log = written(groups)
    anew, inodes = logbook.compact(log)
    assert logbook.is_log(anew)
    kept = said(anew)
    assert kept == said(log)
    assert inodes == len(kept.inodes)
    assert logbook.compact(anew)[0] == anew


@given(records(), st.integers(1, 9))
def test_the_last_count_of_lookups_stands_and_none_drops_the_inode(record: InodeRecord, count: int) -> None:
    node = logbook.InodeEntry(7, record)
    assert said(written([(2, [node]), (4, [logbook.LookupsEntry(7, count)])])).inodes[7].lookups == count
    gone = said(written([(2, [node]), (4, [logbook.LookupsEntry(7, 0)])]))
    assert gone.inodes == {}
    assert gone.node_max == 7


def test_open_files_and_what_was_agreed_on_come_back() -> None:
    record = InodeRecord(
        "/", pack_entry(Entry(name="d", kind="dir", inode=9, mode=0o555, mtime_ns=0)), 9, True, None, 1
    )
    init = InitRecord(45, 1 << 39, 256, 64)
    log = written(
        [
            (0, [logbook.InodeEntry(1, record), logbook.InitEntry(*init)]),
            (8, [logbook.OpenedEntry(3, 1, "passthrough", 17), logbook.OpenedEntry(4, 1, "dir", 0)]),
            (10, [logbook.ReleasedEntry(4)]),
        ]
    )
    kept = said(log)
    assert kept.init == init
    assert kept.opens == {3: OpenRecord(1, "passthrough", 17)}
    assert kept.backing == {1: 17}
    assert kept.fh_max == 4
