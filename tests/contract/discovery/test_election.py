"""What every election promises: in memory, on a real ZooKeeper, and where one master leads alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from forebay.discovery import Election, Ledger, Table, local_registry
from forebay.discovery.hub import EmbeddedHub
from forebay.errors import Conflict, InvalidRequest, NotFound, NotLeader, TooLarge
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.elections import MemoryElection
from forebay.testing.zookeeper import ZooKeeperServer
from tests.contract.discovery.harness import CLUSTER, SOON_S, Harness, eventually, opened, worker

SEVERAL = ["memory", pytest.param("zookeeper", marks=[pytest.mark.zookeeper])]
ALL = ["embedded", *SEVERAL]
TABLES = ("mounts", "jobs")


@dataclass
class Stand:
    """A place where candidates stand; all of them leave at the end."""

    kind: str
    harness: Harness
    stack: AsyncExitStack

    async def election(self, name: str) -> Election:
        if self.kind == "embedded":
            hub = EmbeddedHub(CLUSTER)
            await hub.open()
            election = local_registry(hub, telemetry=quiet()).elect(worker(name))
        else:
            election = (await self.harness.registry()).elect(worker(name), tables=TABLES)
        self.stack.push_async_callback(election.close)
        return election

    async def leader(self, name: str) -> Election:
        election = await self.election(name)
        await eventually(election.is_leading)
        return election


Body = Callable[[Stand], Coroutine[Any, Any, None]]


@asynccontextmanager
async def standing(kind: str, server: ZooKeeperServer | None) -> AsyncIterator[Stand]:
    async with opened(kind, down_s=600, zookeeper=server) as harness, AsyncExitStack() as stack:
        await harness.make_room()
        yield Stand(kind, harness, stack)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> ZooKeeperServer | None:
    found: ZooKeeperServer | None = request.getfixturevalue("zookeeper") if kind == "zookeeper" else None
    return found


def on(kind: str, server: ZooKeeperServer | None, body: Body) -> None:
    async def main() -> None:
        async with standing(kind, server) as stand:
            await body(stand)

    run(main())


def ledger(election: Election) -> Ledger:
    assert election.ledger is not None
    return election.ledger


async def followed(election: Election, name: str = "mounts") -> Table:
    async with asyncio.timeout(SOON_S):
        while (table := ledger(election).table(name)) is None:
            await asyncio.sleep(0.01)
        return table


@pytest.mark.parametrize("kind", ALL)
def test_a_single_candidate_leads_and_says_where_it_is(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(stand: Stand) -> None:
        one = await stand.leader("m1")

        leader = one.leader()

        assert leader is not None
        assert (leader.member_id, leader.tcp) == ("m1", "127.0.0.1:7000")
        assert leader.epoch > 0
        assert await one.changed(leader.epoch, 0.05) is None
        assert await one.changed(leader.epoch - 1, 0.05) == leader

    on(kind, server, body)


def test_nobody_leads_another_masters_registry() -> None:
    async def main() -> None:
        async with opened("embedded", down_s=600) as harness:
            registry = await harness.registry()
            with pytest.raises(InvalidRequest):
                registry.elect(worker("w1"))

    run(main())


@pytest.mark.parametrize("kind", SEVERAL)
def test_one_of_three_leads_and_the_others_know_which(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(stand: Stand) -> None:
        first = await stand.leader("m1")
        others = [await stand.election(name) for name in ("m2", "m3")]

        for each in others:
            heard = await each.changed(-1, SOON_S)
            assert heard is not None
            assert heard == first.leader()
            assert not each.is_leading()

    on(kind, server, body)


@pytest.mark.parametrize("kind", SEVERAL)
def test_the_next_in_line_leads_when_the_leader_leaves_with_a_higher_epoch(
    kind: str, server: ZooKeeperServer | None
) -> None:
    async def body(stand: Stand) -> None:
        first = await stand.leader("m1")
        second = await stand.election("m2")
        before = await second.changed(-1, SOON_S)
        assert before is not None

        await first.close()

        after = await second.changed(before.epoch, SOON_S)
        assert after is not None
        assert (after.member_id, after.epoch) == ("m2", before.epoch + 1)
        assert second.is_leading()
        assert not first.is_leading()

    on(kind, server, body)


@pytest.mark.parametrize("kind", SEVERAL)
def test_what_the_leader_commits_everybody_sees(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(stand: Stand) -> None:
        first, second = await stand.leader("m1"), await stand.election("m2")
        start = await followed(first)

        one = await ledger(first).commit("mounts", {"a/b": b"1", "c": b"2"}, after=start.revision)
        two = await ledger(first).commit("mounts", {"a/b": None, "c": b"3"}, after=one.revision)

        assert two.records == {"c": b"3"}
        assert two.revision == one.revision + 1 == start.revision + 2
        async with asyncio.timeout(SOON_S):
            while (seen := ledger(second).table("mounts")) is None or seen.revision != two.revision:
                await ledger(second).changed("mounts", seen.revision if seen else -1, 0.5)
        assert seen == two
        assert (await followed(second, "jobs")).records == {}, "tables are apart"

    on(kind, server, body)


@pytest.mark.parametrize("kind", SEVERAL)
def test_a_newcomer_reads_the_whole_table(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(stand: Stand) -> None:
        first = await stand.leader("m1")
        table = await followed(first)
        for number in range(12):
            changes = {f"k{number}-{part}": f"{number}".encode() for part in range(20)}
            table = await ledger(first).commit("mounts", changes, after=table.revision)

        second = await stand.election("m2")

        assert (await followed(second)) == table
        assert len(table.records) == 240

    on(kind, server, body)


@pytest.mark.parametrize("kind", SEVERAL)
def test_only_the_leader_commits_and_the_others_say_where_it_is(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(stand: Stand) -> None:
        first, second = await stand.leader("m1"), await stand.election("m2")
        await second.changed(-1, SOON_S)
        table = await followed(second)

        with pytest.raises(NotLeader) as refused:
            await ledger(second).commit("mounts", {"a": b"1"}, after=table.revision)

        assert refused.value.details["leader"] == "127.0.0.1:7000"
        assert (await followed(first)).records == {}

    on(kind, server, body)


@pytest.mark.parametrize("kind", SEVERAL)
def test_a_change_of_a_table_that_has_moved_on_is_refused(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(stand: Stand) -> None:
        first = await stand.leader("m1")
        start = await followed(first)
        table = await ledger(first).commit("mounts", {"a": b"1"}, after=start.revision)

        with pytest.raises(Conflict):
            await ledger(first).commit("mounts", {"a": b"2"}, after=start.revision)

        assert await followed(first) == table

    on(kind, server, body)


@pytest.mark.parametrize("kind", SEVERAL)
def test_what_no_table_takes_is_refused_and_nothing_changes(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(stand: Stand) -> None:
        first = await stand.leader("m1")
        start = await followed(first)

        with pytest.raises(TooLarge):
            await ledger(first).commit("mounts", {"a": bytes(65 << 10)}, after=start.revision)
        with pytest.raises(TooLarge):
            await ledger(first).commit("mounts", {f"{n}": b"" for n in range(65)}, after=start.revision)
        with pytest.raises(InvalidRequest):
            await ledger(first).commit("mounts", {"": b""}, after=start.revision)
        with pytest.raises(NotFound):
            ledger(first).table("no such table")

        assert await followed(first) == start

    on(kind, server, body)


def test_a_leader_that_does_not_know_that_it_was_deposed_changes_nothing() -> None:
    async def body(stand: Stand) -> None:
        first, second = await stand.leader("m1"), await stand.election("m2")
        assert isinstance(first, MemoryElection)
        table = await followed(first)

        first.depose()

        assert first.is_leading(), "it believes so"
        with pytest.raises(NotLeader):
            await ledger(first).commit("mounts", {"a": b"1"}, after=table.revision)
        assert second.is_leading()

    on("memory", None, body)
