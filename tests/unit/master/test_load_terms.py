"""Loads of two masters over elections in memory: who leads runs them, who does not lets go, and none is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forebay.contracts import ClusterMap, Member, StatusReply
from forebay.contracts.loads import HoldsReply, LoadRequest, LoadStatus
from forebay.contracts.tickets import KeyRing
from forebay.errors import Conflict, Detail, ForebayError, NotFound, NotLeader, NotReady, PeerUnavailable
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.elections import MemoryElections
from forebay.testing.transport import eventually
from forebay.transport import HttpClient
from forebay_master.leading import Leading
from forebay_master.load_terms import keep_terms
from forebay_master.loading import Piece, WorkerCalls
from forebay_master.loads import Loads
from forebay_master.znode_jobs import TABLE, ZnodeJobStore
from tests.unit.master.kit import Kit, kit

SOON_S = 30.0
MAP = ClusterMap(
    cluster_id="test",
    epoch=1,
    revision=1,
    members=(Member(member_id="w", role="worker", tcp="w:1", capacity_weight=1.0, state="live"),),
)


class Workers(WorkerCalls):
    """One worker in memory, which fills nothing while it is told to wait."""

    def __init__(self) -> None:
        self.http = HttpClient(quiet())
        super().__init__(self.http, KeyRing(()), "test", "m")
        self.held: set[str] = set()
        self.go = asyncio.Event()
        self.asked = 0

    async def status(self, member: Member) -> StatusReply:
        """It has room."""
        tier: dict[str, Detail] = {"tier": "MEM", "capacity_bytes": 1 << 30, "used_bytes": 0, "in_service": True}
        return StatusReply(
            service="forebay-worker",
            member_id="w",
            version="0",
            wire_version=1,
            started_at_s=0.0,
            ready=True,
            detail={"tier0": tier, "running_settings": {"policy": "hold", "high_watermark": 1.0}},
        )

    async def holds(self, member: Member, pieces: Sequence[Piece], *, verify: bool = False) -> HoldsReply:
        """What was filled."""
        return HoldsReply(complete=tuple(p.block_id for p in pieces if p.block_id in self.held))

    async def ask(self, member: Member, piece: Piece) -> None:
        """Fills a block."""
        self.asked += 1
        await self.go.wait()
        self.held.add(piece.block_id)


class Master:
    """What one master has of loads."""

    def __init__(self, elections: MemoryElections, name: str, k: Kit, workers: Workers) -> None:
        self.reachable = True
        self.leading = Leading()
        member = Member(member_id=name, role="master", tcp=f"{name}:1")
        self.leading.election = self.election = elections.stand(member, (TABLE,), lambda: self.reachable)
        self.store = ZnodeJobStore(self.leading.ledger, self.leading.check)
        self.loads = Loads(self.store, k.catalog, k.mounts, workers, k.supervisor, cluster_map=lambda: MAP)
        self.terms = asyncio.ensure_future(keep_terms(self.leading, self.loads, self.store))

    async def begin(self) -> str:
        """A load of everything."""
        await eventually(lambda: self.loads.is_taken_up, timeout_s=SOON_S)
        return (await self.loads.begin(LoadRequest(path="/m"))).load_id

    def sees(self, load_id: str) -> LoadStatus | None:
        """A load as this one shows it."""
        return next((status for status in self.loads.all() if status.load_id == load_id), None)

    def says(self, load_id: str, state: str) -> bool:
        """Whether it shows it in that state."""
        status = self.sees(load_id)
        return status is not None and status.state == state


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[tuple[Master, Master, Workers]]:
    """Two masters, of which the first leads, over a mount of three files."""
    async with kit(folder) as k:
        for name in ("a", "b", "c"):
            k.ufs.put(f"d/{name}", b"12345")
        await k.mount("/m")
        elections, workers = MemoryElections(), Workers()
        first, second = (Master(elections, name, k, workers) for name in ("m1", "m2"))
        try:
            yield first, second, workers
        finally:
            for master in (first, second):
                master.terms.cancel()
                await asyncio.wait([master.terms])
                await master.loads.stand_down()
                await master.election.close()
            await workers.http.close()


def test_a_load_is_seen_by_all_and_changed_by_its_leader_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path) as (first, second, workers):
            name = await first.begin()
            await eventually(lambda: second.says(name, "filling"), timeout_s=SOON_S)
            with pytest.raises(NotLeader) as refused:
                await second.loads.begin(LoadRequest(path="/m"))
            assert refused.value.details["leader"] == "m1:1"
            with pytest.raises(NotLeader):
                await second.loads.cancel(name)
            workers.go.set()
            await eventually(lambda: second.says(name, "succeeded"), timeout_s=SOON_S)
            assert second.sees(name) == first.sees(name)
            with pytest.raises(Conflict):
                await first.loads.cancel(name)

    run(main())


@pytest.mark.parametrize("hears", [True, False])
def test_a_load_in_the_middle_is_let_go_by_who_no_longer_leads_and_ended_by_the_next(
    tmp_path: Path, hears: bool
) -> None:
    async def main() -> None:
        async with two(tmp_path) as (first, second, workers):
            name = await first.begin()
            await eventually(lambda: workers.asked > 0, timeout_s=SOON_S)
            if hears:
                await first.election.close()
            else:
                first.election.depose()
            await eventually(lambda: second.loads.is_taken_up, timeout_s=SOON_S)
            workers.go.set()
            await eventually(lambda: second.says(name, "succeeded"), timeout_s=SOON_S)
            done = second.sees(name)
            assert done is not None
            assert (done.attempts, done.missing_blocks, len(workers.held)) == (2, 0, 3)
            assert not first.says(name, "succeeded") or first.sees(name) == done
            assert hears == (not first.loads.is_taken_up)

    run(main())


def test_a_state_that_cannot_be_stored_waits_and_a_load_that_cannot_be_stored_is_not_begun(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path) as (first, second, workers):
            name = await first.begin()
            await eventually(lambda: second.says(name, "filling"), timeout_s=SOON_S)
            first.reachable = False
            workers.go.set()
            with pytest.raises(PeerUnavailable):
                await first.loads.begin(LoadRequest(path="/m"))
            assert [status.load_id for status in first.loads.all()] == [name]
            await eventually(lambda: len(workers.held) == 3, timeout_s=SOON_S)
            assert first.says(name, "filling")
            first.reachable = True
            await eventually(lambda: second.says(name, "succeeded"), timeout_s=SOON_S)
            assert first.sees(name) == second.sees(name)

    run(main())


def test_a_load_that_was_cancelled_stays_so_over_terms(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path) as (first, second, workers):
            name = await first.begin()
            await eventually(lambda: workers.asked > 0, timeout_s=SOON_S)
            assert (await first.loads.cancel(name)).state == "cancelled"
            await first.election.close()
            await eventually(lambda: second.loads.is_taken_up, timeout_s=SOON_S)
            assert second.says(name, "cancelled")
            assert second.loads.running == 0

    run(main())


def test_nothing_is_begun_before_what_is_stored_was_taken_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path) as (first, second, _):
            assert not first.loads.is_taken_up
            with pytest.raises(NotReady):
                await first.loads.begin(LoadRequest(path="/m"))
            with pytest.raises(ForebayError):
                await second.loads.begin(LoadRequest(path="/m"))

    run(main())


def test_nobody_says_that_there_is_no_such_load_before_what_is_stored_was_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with two(tmp_path) as (first, second, _):
            for master in (first, second):
                with pytest.raises(NotReady):
                    master.loads.get("load-0")
            await eventually(lambda: first.loads.is_known and second.loads.is_known, timeout_s=SOON_S)
            for master in (first, second):
                with pytest.raises(NotFound):
                    master.loads.get("load-0")

    run(main())
