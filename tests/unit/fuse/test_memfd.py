"""The journal in memory: what a gateway that dies at any point leaves to the next one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from msgspec import structs

from forebay.contracts import Entry
from forebay.contracts.packed import pack_entry
from forebay_fuse import memfd, takeover
from forebay_fuse.journal import InodeRecord, OpenRecord, SessionRecord
from forebay_fuse.memfd import TAKEOVERS_MAX, MemfdJournal
from forebay_fuse.protocol import layout
from forebay_fuse.protocol.layout import Op
from forebay_fuse.protocol.recovery import RESENT

DIR = Entry(name="d", kind="dir", inode=9, mode=0o555, mtime_ns=0)


def record(path: str = "/d", lookups: int = 1) -> InodeRecord:
    return InodeRecord("/d", pack_entry(structs.replace(DIR, name=path)), 9, True, "m", lookups)


def request(unique: int, op: int = Op.LOOKUP, body: bytes = b"name\0") -> bytes:
    return layout.IN_HEADER.pack(layout.IN_HEADER.size + len(body), op, unique, 1, 0, 0, 0, 0, 0) + body


def arrive(journal: MemfdJournal, data: bytes) -> tuple[memoryview, bool]:
    """As if the kernel had written it."""
    room = journal.room()
    assert room is not None
    room[: len(data)] = data
    return room[: len(data)], journal.came(room[: len(data)])


HEIRS: list[MemfdJournal] = []


def heir(journal: MemfdJournal) -> MemfdJournal:
    """What the next gateway makes of it: the writer is gone, only the descriptors are left."""
    found = MemfdJournal.open_kept([os.dup(fd) for fd in journal.fds])
    assert found is not None
    HEIRS.append(found)
    return found


@pytest.fixture
def journal() -> Iterator[MemfdJournal]:
    """One with a session and its root; it and all its heirs are closed at the end."""
    made = MemfdJournal.make()
    made.inode(1, record("/"))
    made.mounted(SessionRecord("/", "/mnt", "/mnt", True, "0:99"))
    yield made
    for each in (made, *HEIRS):
        each.close()
    HEIRS.clear()


def test_what_was_told_is_there_for_the_next_gateway(journal: MemfdJournal) -> None:
    view, _ = arrive(journal, request(10))
    journal.inode(2, record("/d/a"))
    journal.answering(10)
    journal.answered(10)
    journal.handled(view)
    journal.opened(1, OpenRecord(2, "dir"))
    journal.answering(12)
    journal.validate()
    next_one = heir(journal)
    left = takeover.read(next_one, lambda _: False)
    assert set(left.kept.inodes) == {1, 2}
    assert left.kept.opens == {1: OpenRecord(2, "dir")}
    assert left.plan.answer == left.plan.over == ()


def test_a_request_is_in_its_slot_until_the_kernel_has_the_reply(journal: MemfdJournal) -> None:
    data = request(10)
    arrive(journal, data)
    (waiting,) = heir(journal).left()
    assert (waiting.unique, waiting.opcode, bytes(waiting.request)) == (10, Op.LOOKUP, data)
    assert journal.in_flight == 1
    journal.answered(10)
    assert list(heir(journal).left()) == []
    assert journal.in_flight == 0


def test_a_forget_is_over_once_it_was_handled_and_what_it_did_is_written(journal: MemfdJournal) -> None:
    journal.inode(2, record("/d/a", 3))
    journal.write(0)
    view, _ = arrive(journal, request(10, Op.FORGET, layout.FORGET_IN.pack(1)))
    journal.lookups(2, 2)
    journal.handled(view)
    assert journal.in_flight == 0
    assert takeover.read(heir(journal), lambda _: False).kept.inodes[2].lookups == 2


def test_a_group_that_the_kernel_never_heard_of_is_taken_back(journal: MemfdJournal) -> None:
    arrive(journal, request(10))
    journal.inode(2, record("/d/a"))
    journal.answering(10)  # and here it dies, before the reply, or after it: only the kernel knows
    untold = takeover.read(heir(journal), lambda unique: unique == 10)
    assert set(untold.kept.inodes) == {1}
    assert untold.plan.untold
    assert [w.unique for w in untold.plan.answer] == [10]


def test_a_group_that_the_kernel_has_heard_stands_although_its_request_is_in_a_slot(journal: MemfdJournal) -> None:
    arrive(journal, request(10))
    journal.inode(2, record("/d/a"))
    journal.answering(10)
    told = takeover.read(heir(journal), lambda _: False)
    assert set(told.kept.inodes) == {1, 2}
    assert [w.unique for w in told.plan.over] == [10]


def test_the_backing_file_of_an_open_that_was_never_told_is_named(journal: MemfdJournal) -> None:
    arrive(journal, request(10, Op.OPEN, bytes(8)))
    journal.opened(1, OpenRecord(1, "passthrough", 7))
    journal.answering(10)
    left = takeover.read(heir(journal), lambda _: True)
    assert left.untold_backing == (7,)
    assert left.kept.opens == {}


def test_a_forget_whose_group_is_the_last_is_not_done_twice(journal: MemfdJournal) -> None:
    journal.inode(2, record("/d/a", 3))
    journal.write(0)
    arrive(journal, request(10, Op.FORGET, layout.FORGET_IN.pack(1)))
    again = takeover.read(heir(journal), lambda _: False)
    assert [w.unique for w in again.plan.answer] == [10]  # it died before it did anything
    journal.lookups(2, 2)
    journal.write(10)  # it died before the slot was cleared
    done = takeover.read(heir(journal), lambda _: False)
    assert done.plan.answer == ()
    assert done.kept.inodes[2].lookups == 2


def test_a_torn_end_is_cut_off_and_what_is_written_next_is_read(journal: MemfdJournal) -> None:
    journal.inode(2, record("/d/a"))
    journal.write(0)
    os.truncate(journal.fds[1], journal.end - 3)
    next_one = heir(journal)
    assert set(takeover.read(next_one, lambda _: False).kept.inodes) == {1}
    next_one.inode(3, record("/d/b"))
    next_one.write(0)
    assert set(takeover.read(heir(next_one), lambda _: False).kept.inodes) == {1, 3}


def test_requests_are_planned_in_the_order_in_which_they_came(journal: MemfdJournal) -> None:
    for unique in (14, 10 | RESENT, 12, 13):
        arrive(journal, request(unique, Op.INTERRUPT if unique & 1 else Op.READ))
    found = takeover.plan(heir(journal).left(), 0, lambda unique: unique != 14)
    assert [w.unique & ~RESENT for w in found.answer] == [10, 12, 13]
    assert [w.unique for w in found.over] == [14]


def test_a_request_with_which_gateways_keep_dying_is_given_up(journal: MemfdJournal) -> None:
    _, good = arrive(journal, request(10))
    assert good
    heirs = [journal]
    for count in range(1, TAKEOVERS_MAX + 1):
        heirs.append(heir(heirs[-1]))
        (waiting,) = heirs[-1].left()
        assert waiting.takeovers == count - 1
        assert heirs[-1].keep(waiting) == (count < TAKEOVERS_MAX)
        heirs[-1].validate()


def test_a_request_that_is_sent_again_has_its_past(journal: MemfdJournal) -> None:
    arrive(journal, request(10))
    heirs = [journal]
    for count in range(1, TAKEOVERS_MAX + 1):
        heirs.append(heir(heirs[-1]))
        (waiting,) = heirs[-1].left()
        heirs[-1].drop(waiting, resent=True)
        _, good = arrive(heirs[-1], request(10 | RESENT))
        assert good == (count < TAKEOVERS_MAX)


def test_there_is_room_for_so_many_requests_and_then_none(journal: MemfdJournal) -> None:
    for number in range(memfd.SLOTS):
        arrive(journal, request(2 * number + 2))
    assert journal.room() is None
    journal.answered(2)
    assert journal.room() is not None
    journal.validate()


async def settled(journal: MemfdJournal) -> None:
    """Once the log was written anew."""
    while not journal.compactions:
        await asyncio.sleep(0)


def test_a_log_that_is_mostly_over_is_written_anew_and_nothing_is_lost(journal: MemfdJournal) -> None:
    async def run() -> None:
        # given names that come and go, and one that stays
        journal.inode(2, record("/d/stays"))
        for number in range(3, 15_000):
            journal.inode(number, record(f"/d/{number}"))
            journal.write(0)
            journal.lookups(number, 0)
            journal.answering(0)
            journal.answered(0)
            if journal.compactions == 0 and journal.is_wasteful:
                await asyncio.sleep(0)
        # when the log is written anew, while more is added
        journal.inode(50_000, record("/d/late"))
        journal.write(0)
        await settled(journal)

    asyncio.run(run())
    # then it is short, and says the same
    assert journal.end < 2 << 20
    kept = takeover.read(heir(journal), lambda _: False).kept
    assert set(kept.inodes) == {1, 2, 50_000}
    assert kept.node_max == 50_000
    assert kept.session is not None


def test_ten_thousand_inodes_take_less_than_two_mebibytes(journal: MemfdJournal) -> None:
    for number in range(2, 10_002):
        journal.inode(number, record(f"/imagenet/train/n01440764/n01440764_{number:08d}.JPEG"))
        if number % 500 == 0:
            journal.write(number)
    journal.write(2)
    assert journal.end < 2 << 20
    assert len(takeover.read(heir(journal), lambda _: False).kept.inodes) == 10_001


def test_memory_of_another_form_is_no_journal(journal: MemfdJournal) -> None:
    fds = [os.memfd_create("x") for _ in range(3)]
    assert MemfdJournal.open_kept(fds) is None
    assert MemfdJournal.open_kept(fds[:2]) is None
    os.pwrite(journal.fds[0], b"\xff", 7)
    assert MemfdJournal.open_kept([os.dup(fd) for fd in journal.fds]) is None
    for fd in fds:
        os.close(fd)
