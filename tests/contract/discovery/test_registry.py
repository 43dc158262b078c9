"""What every registry promises, on the fake and on the two real ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from forebay.contracts import Member
from forebay.discovery import master_addresses
from forebay.errors import Conflict, InvalidRequest, PeerUnavailable
from forebay.runtime import Deadline
from forebay.testing import run
from forebay.testing.zookeeper import ZooKeeperServer
from tests.contract.discovery.harness import OPTIONS, Harness, eventually, has, lacks, opened, seen, worker

KINDS = [
    "memory",
    "embedded",
    pytest.param("zookeeper", marks=[pytest.mark.zookeeper]),
]
Body = Callable[[Harness], Coroutine[Any, Any, None]]
LONG_S = 600.0


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> ZooKeeperServer | None:
    """The ZooKeeper all tests share; they leave it running."""
    found: ZooKeeperServer | None = request.getfixturevalue("zookeeper") if kind == "zookeeper" else None
    return found


@pytest.fixture
def own_server(kind: str) -> Iterator[ZooKeeperServer | None]:
    """A ZooKeeper that this test may stop."""
    if kind != "zookeeper":
        yield None
        return
    with ZooKeeperServer() as started:
        yield started


def on(kind: str, server: ZooKeeperServer | None, body: Body, *, down_s: float = LONG_S) -> None:
    async def main() -> None:
        async with opened(kind, down_s=down_s, zookeeper=server) as harness:
            await body(harness)

    run(main())


def test_everybody_sees_an_announced_member(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one, other = await harness.registry(), await harness.registry()
        announced = worker("w1", 7001, capacity_weight=3.5, serving_weight=0.5, uds="/run/w1", version="0.1")

        await one.announce(announced)

        for registry in (one, other):
            cluster_map = await seen(registry, has("w1"))
            assert cluster_map.members == (announced,)
        assert one.is_announced()
        assert not other.is_announced()

    on(kind, server, body)


def test_an_announcement_is_an_update_the_second_time(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one, other = await harness.registry(), await harness.registry()
        await one.announce(worker("w1"))
        before = await seen(other, has("w1"))

        await one.announce(worker("w1", uds="/run/new"))
        moved = await seen(other, has("w1", uds="/run/new"))
        await one.announce(worker("w1", uds="/run/new", capacity_weight=2.0))
        heavier = await seen(other, has("w1", capacity_weight=2.0))

        assert moved.revision > before.revision
        assert moved.epoch == before.epoch, "an address moves no ownership"
        assert heavier.epoch > moved.epoch, "a capacity weight does"

    on(kind, server, body)


def test_a_serving_weight_spreads_without_a_new_epoch(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one, other = await harness.registry(), await harness.registry()
        await one.announce(worker("w1"))
        before = await seen(other, has("w1"))

        for weight in (0.9, 0.8, 0.7, 0.25):
            await one.announce(worker("w1", serving_weight=weight))
        after = await seen(other, has("w1", serving_weight=0.25))

        assert after.epoch == before.epoch
        assert after.revision > before.revision

    on(kind, server, body)


def test_draining_gives_ownership_away_and_the_member_stays(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one = await harness.registry()
        await one.announce(worker("w1"))
        before = await seen(one, has("w1", state="live"))

        await one.announce(worker("w1", state="draining"))

        assert (await seen(one, has("w1", state="draining"))).epoch > before.epoch

    on(kind, server, body)


def test_a_withdrawn_member_is_out_at_once(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one, other = await harness.registry(), await harness.registry()
        await one.announce(worker("w1"))
        before = await seen(other, has("w1"))

        await one.withdraw()
        await one.withdraw()

        assert (await seen(other, lacks("w1"))).epoch > before.epoch
        assert not one.is_announced()
        # It may come back, under another id as well.
        await one.announce(worker("w2"))
        await seen(other, has("w2", state="live"))

    on(kind, server, body)


def test_a_member_that_stops_is_down_first_and_keeps_its_ownership(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one, other = await harness.registry(), await harness.registry()
        await one.announce(worker("w1"))
        before = await seen(other, has("w1", state="live"))

        await one.close()
        down = await seen(other, has("w1", state="down"))
        again = await harness.registry()
        await again.announce(worker("w1", 7099))
        back = await seen(other, has("w1", state="live", tcp="127.0.0.1:7099"))

        assert down.epoch == before.epoch == back.epoch
        assert down.revision < back.revision

    on(kind, server, body)


def test_a_member_that_is_down_for_long_is_out(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one, other = await harness.registry(), await harness.registry()
        await one.announce(worker("w1"))
        await other.announce(worker("w2"))
        await seen(other, lambda m: has("w1")(m) and has("w2")(m))
        await one.close()
        down = await seen(other, has("w1", state="down"))

        await harness.let_time_pass("w1")
        out = await seen(other, lacks("w1"))

        assert out.epoch > down.epoch
        assert has("w2", state="live")(out)

    on(kind, server, body, down_s=1.0)


def test_a_second_member_of_one_id_is_refused_by_name(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one, other = await harness.registry(), await harness.registry()
        await one.announce(worker("w1", 7001))

        with pytest.raises(Conflict, match=r"'w1' is in use at 127\.0\.0\.1:7001") as caught:
            await other.announce(worker("w1", 7002))

        assert caught.value.details["holder"] == "127.0.0.1:7001"
        assert not other.is_announced()
        assert one.is_announced()
        assert has("w1", tcp="127.0.0.1:7001")(await seen(other, has("w1")))
        # The refused one may take an id of its own.
        await other.announce(worker("w2", 7002))
        await seen(one, has("w2"))

    on(kind, server, body)


def test_a_process_restarted_at_its_address_takes_its_id_over(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        dead, new = await harness.registry(), await harness.registry()
        await dead.announce(worker("w1", 7001, version="old"))

        await new.announce(worker("w1", 7001, version="new"))

        await seen(new, has("w1", version="new", state="live"))
        # The one that was taken for dead learns of it, and does not fight.
        await eventually(lambda: not dead.is_announced())
        await asyncio.sleep(OPTIONS.ttl_s)
        assert new.is_announced()
        assert has("w1", version="new", state="live")(await seen(new, has("w1")))

    on(kind, server, body)


def test_a_member_cannot_call_itself_down_or_change_its_id(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one = await harness.registry()
        with pytest.raises(InvalidRequest):
            await one.announce(worker("w1", state="down"))
        assert not one.is_announced()

    on(kind, server, body)


def test_changed_waits_for_news_and_gives_up_in_time(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one, other = await harness.registry(), await harness.registry()
        await one.announce(worker("w1"))
        now = await seen(other, has("w1"))

        started_s = time.monotonic()
        assert await other.changed(now.revision, 0.2) is None
        assert 0.15 < time.monotonic() - started_s < 2
        waiting = asyncio.create_task(other.changed(now.revision, 10))
        await one.announce(worker("w1", uds="/x"))
        news = await waiting

        assert news is not None
        assert has("w1", uds="/x")(news)
        assert await other.changed(now.revision, 0) == news, "news that is there needs no waiting"

    on(kind, server, body)


def test_masters_are_found_in_the_map(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        master, client = await harness.registry(), await harness.registry()
        epoch = (await seen(client, lambda _: True)).epoch
        await master.announce(Member(member_id="m1", role="master", tcp="10.0.0.1:7070"))

        cluster_map = await seen(client, has("m1"))

        assert master_addresses(cluster_map) == ["10.0.0.1:7070"]
        assert cluster_map.epoch == epoch, "masters own no blocks"

    on(kind, server, body)


def test_the_last_maps_are_remembered_one_an_epoch(kind: str, server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one, other = await harness.registry(), await harness.registry()
        await one.announce(worker("w1"))
        await seen(other, has("w1"))
        for step in range(12):
            await one.announce(worker("w1", capacity_weight=2.0 + step))
            await seen(other, has("w1", capacity_weight=2.0 + step))

        history = other.history()

        assert history[0] == other.current()
        assert [m.epoch for m in history] == sorted({m.epoch for m in history}, reverse=True)
        assert 2 <= len(history) <= 8

    on(kind, server, body)


def test_an_outage_changes_nothing_and_news_come_after_it(kind: str, own_server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        one, other = await harness.registry(), await harness.registry()
        await one.announce(worker("w1"))
        await other.announce(worker("w2"))
        before = await seen(one, lambda m: has("w1")(m) and has("w2")(m))
        await seen(other, has("w1"))

        await harness.begin_outage()
        assert await one.changed(before.revision, 0.5) is None
        assert one.current() == before

        await harness.end_outage()
        await one.announce(worker("w1", uds="/after"))
        after = await seen(other, has("w1", uds="/after"), within_s=20)
        assert after.epoch >= before.epoch
        assert after.revision > before.revision
        settled = await seen(one, lambda m: has("w1", state="live")(m) and has("w2", state="live")(m), within_s=20)
        assert settled.epoch == before.epoch, "an outage moves no ownership"
        assert one.is_announced()
        assert other.is_announced()

    on(kind, own_server, body)


def test_an_unreachable_registry_fails_the_start_by_name(kind: str, own_server: ZooKeeperServer | None) -> None:
    async def body(harness: Harness) -> None:
        await harness.begin_outage()
        registry = harness.unstarted()

        with pytest.raises(PeerUnavailable) as caught:
            await registry.start(Deadline.after(0.5))

        assert harness.address in caught.value.message
        await harness.end_outage()

    on(kind, own_server, body)
