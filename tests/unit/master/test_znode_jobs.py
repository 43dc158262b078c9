"""Loads as records that all masters share: what fits, what is left out, and who may write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from forebay.contracts import Member, encode
from forebay.contracts.loads import LoadPlan, LoadRequest, LoadShare, LoadStatus, MissingBlock
from forebay.discovery import Table
from forebay.discovery.terms import RECORD_BYTES_MAX
from forebay.errors import NotLeader, NotReady
from forebay.testing import run
from forebay.testing.elections import MemoryElection, MemoryElections
from forebay_master.leading import Leading
from forebay_master.znode_jobs import TABLE, TERM, ZnodeJobStore, fitting, parse

SHARE = LoadShare(member_id="w", blocks=1, bytes=1, held_blocks=0, held_bytes=0, capacity_bytes=1, used_bytes=0)


def load(number: int = 0, *, missing: int = 0, shares: int = 0) -> LoadStatus:
    return LoadStatus(
        load_id=f"load-{number}",
        request=LoadRequest(path="/m"),
        state="filling",
        created_s=float(number),
        changed_s=float(number),
        plan=LoadPlan(files=1, blocks=1, bytes=1, shares=tuple(share(n) for n in range(shares))),
        missing_blocks=missing,
        missing=tuple(
            MissingBlock(path=f"/m/{'d' * 200}/{n}", index=0, member_id="w", reason="no room") for n in range(missing)
        ),
        message="blocks are missing",
    )


def share(number: int) -> LoadShare:
    return msgspec.structs.replace(SHARE, member_id=f"worker-{number}", reason="r" * 100)


class Candidate:
    """One master's part: its election in memory, and its store over that."""

    def __init__(self, elections: MemoryElections, name: str) -> None:
        self.reachable = True
        member = Member(member_id=name, role="master", tcp=f"{name}:1")
        self.election: MemoryElection = elections.stand(member, (TABLE,), lambda: self.reachable)
        self.leading = Leading()
        self.leading.election = self.election
        self.store = ZnodeJobStore(self.leading.ledger, self.leading.check)


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Candidate, Candidate]]:
    elections = MemoryElections()
    first, second = Candidate(elections, "m1"), Candidate(elections, "m2")
    yield first, second
    for candidate in (first, second):
        candidate.election.validate()
        await candidate.election.close()


def test_a_load_that_fits_is_stored_as_it_is() -> None:
    assert fitting(load(missing=3, shares=2)) == load(missing=3, shares=2)


def test_names_of_missing_blocks_that_have_no_room_are_left_out_and_the_record_says_so() -> None:
    found = fitting(load(missing=1000, shares=2))

    assert len(encode(found)) <= RECORD_BYTES_MAX
    assert 0 < len(found.missing) < 1000
    assert found.missing == load(missing=1000).missing[: len(found.missing)]
    assert (found.missing_blocks, found.plan) == (1000, load(shares=2).plan)
    assert f"stored with {len(found.missing)} of 1000 names of missing blocks and 2 of 2 shares" in found.message


def test_shares_go_only_when_all_names_are_gone() -> None:
    found = fitting(load(missing=50, shares=1000))

    assert len(encode(found)) <= RECORD_BYTES_MAX
    assert found.plan is not None
    assert (found.missing, 0 < len(found.plan.shares) < 1000) == ((), True)
    assert "stored with 0 of 50 names of missing blocks" in found.message


def test_what_cannot_be_read_hides_no_other_load() -> None:
    records = {TERM: b"{}", "load-0": encode(load()), "load-1": b'{"what": 1}'}

    assert parse(Table(3, records)) == [load()]


def test_what_one_leader_stored_another_takes_up_and_everybody_is_shown() -> None:
    async def main() -> None:
        async with two() as (first, second):
            assert await first.store.begin() == []
            await first.store.put(load(0))
            await first.store.put(load(1))
            await first.store.remove("load-0")
            assert second.store.shown() == [load(1)]
            assert second.leading.term() is None
            first.election.depose()
            assert await second.store.begin() == [load(1)]

    run(main())


def test_a_leader_of_before_stores_nothing_whatever_it_believes() -> None:
    async def main() -> None:
        async with two() as (first, second):
            await first.store.begin()
            first.election.depose()
            assert first.leading.is_leading()
            await second.store.begin()
            for change in (first.store.put(load()), first.store.begin(), first.store.remove("load-0")):
                with pytest.raises((NotLeader, NotReady)):
                    await change
            assert second.store.shown() == []

    run(main())


def test_who_does_not_lead_begins_no_term() -> None:
    async def main() -> None:
        async with two() as (_, second):
            with pytest.raises(NotLeader) as refused:
                await second.store.begin()
            assert refused.value.details["leader"] == "m1:1"

    run(main())
