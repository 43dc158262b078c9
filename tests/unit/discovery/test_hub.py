"""The embedded registry's server half: what it publishes, stores and forgives."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from forebay.contracts import AnnounceRequest, ClusterMap, Member, WithdrawRequest
from forebay.discovery.hub import TICK_S, EmbeddedHub
from forebay.errors import ConfigError, Conflict, InternalError, NotReady
from forebay.testing import run


class Disk:
    """A store for one map that can be slow, or broken."""

    def __init__(self) -> None:
        self.stored: ClusterMap | None = None
        self.is_broken = False
        self.saves = 0
        self.gate: asyncio.Event | None = None

    async def load(self) -> ClusterMap | None:
        return self.stored

    async def save(self, cluster_map: ClusterMap) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.is_broken:
            raise InternalError("the disk is full")
        self.saves += 1
        self.stored = cluster_map


def hub_on(disk: Disk, *, cluster_id: str = "c", at_s: float = 0.0, down_s: float = 60.0) -> EmbeddedHub:
    return EmbeddedHub(cluster_id, load=disk.load, save=disk.save, down_s=down_s, clock=lambda: at_s)


def announce(name: str = "w1", session: str = "s", **more: object) -> AnnounceRequest:
    member = msgspec.structs.replace(Member(member_id=name, role="worker", tcp="h:1"), **more)
    return AnnounceRequest(member=member, session=session, ttl_s=10.0)


def states(hub: EmbeddedHub) -> dict[str, str]:
    return {m.member_id: m.state for m in hub.current().members}


def test_an_announced_member_is_in_the_map_and_on_disk_when_the_call_returns() -> None:
    async def main() -> None:
        disk = Disk()
        hub = hub_on(disk)
        await hub.open()
        reply = await hub.announce(announce(), 0.0)
        assert reply.revision == hub.current().revision
        assert disk.stored == hub.current()
        assert states(hub) == {"w1": "live"}
        hub.validate()

    run(main())


def test_a_renewal_writes_nothing() -> None:
    async def main() -> None:
        disk = Disk()
        hub = hub_on(disk)
        await hub.open()
        for now_s in range(100):
            await hub.announce(announce(), float(now_s))
            await hub.tick(now_s + 0.1)
        assert disk.saves == 1

    run(main())


def test_neither_epoch_nor_revision_falls_over_restarts() -> None:
    async def main() -> None:
        disk = Disk()
        seen: list[tuple[int, int]] = []
        for life in range(5):
            hub = hub_on(disk)
            await hub.open()
            seen.append((hub.current().epoch, hub.current().revision))
            await hub.announce(announce(f"w{life}"), 0.0)
            await hub.announce(announce(f"w{life}", capacity_weight=9.0), 1.0)
            seen.append((hub.current().epoch, hub.current().revision))
        assert seen == sorted(seen)
        assert seen[-1][0] > seen[0][0]

    run(main())


def test_a_map_is_not_shown_before_it_is_stored() -> None:
    async def main() -> None:
        disk = Disk()
        hub = hub_on(disk)
        await hub.open()
        before = hub.current()
        disk.gate = asyncio.Event()
        announcing = asyncio.create_task(hub.announce(announce(), 0.0))
        for _ in range(5):
            await asyncio.sleep(0)
        assert hub.current() is before
        disk.gate.set()
        await announcing
        assert disk.stored == hub.current() != before

    run(main())


def test_a_store_that_fails_keeps_the_last_map_and_is_tried_again() -> None:
    async def main() -> None:
        disk = Disk()
        hub = hub_on(disk)
        await hub.open()
        before = hub.current()
        disk.is_broken = True
        with pytest.raises(InternalError):
            await hub.announce(announce(), 0.0)
        assert hub.current() is before
        disk.is_broken = False
        await hub.tick(0.5)
        assert states(hub) == {"w1": "live"}

    run(main())


def test_many_announcements_at_once_make_maps_that_only_grow() -> None:
    async def main() -> None:
        disk = Disk()
        hub = hub_on(disk)
        await hub.open()
        start = hub.current().revision
        await asyncio.gather(*(hub.announce(announce(f"w{n}"), 0.0) for n in range(50)))
        assert len(states(hub)) == 50
        assert disk.stored == hub.current()
        assert start < hub.current().revision <= start + 50
        hub.validate()

    run(main())


def test_time_makes_a_silent_member_down_and_then_out() -> None:
    async def main() -> None:
        hub = hub_on(Disk())
        await hub.open()
        await hub.announce(announce(), 0.0)
        epoch = hub.current().epoch
        now_s = 0.0
        while now_s < 75.0:
            await hub.tick(now_s)
            expected = {"w1": "live"} if now_s < 10 else {"w1": "down"} if now_s < 70 else {}
            assert states(hub) == expected, now_s
            assert hub.current().epoch == epoch + (now_s >= 70)
            now_s += TICK_S

    run(main())


def test_a_registry_that_slept_takes_nobody_for_gone() -> None:
    async def main() -> None:
        hub = hub_on(Disk())
        await hub.open()
        await hub.tick(0.0)
        await hub.announce(announce(), 0.0)
        await hub.tick(1000.0)
        assert states(hub) == {"w1": "live"}
        await hub.tick(1000.0 + TICK_S)
        assert states(hub) == {"w1": "live"}
        for step in range(40):
            await hub.tick(1001.0 + step * TICK_S)
        assert states(hub) == {"w1": "down"}

    run(main())


def test_members_of_the_stored_map_have_time_to_come_back() -> None:
    async def main() -> None:
        disk = Disk()
        first = hub_on(disk)
        await first.open()
        await first.announce(announce("w1"), 0.0)
        await first.announce(announce("w2"), 0.0)
        epoch = first.current().epoch

        second = hub_on(disk, at_s=500.0)
        await second.open()
        assert states(second) == {"w1": "live", "w2": "live"}
        await second.tick(500.0)
        await second.announce(announce("w1", session="whoever"), 505.0)
        for step in range(1, 24):
            await second.tick(500.0 + step * TICK_S)

        assert states(second) == {"w1": "live", "w2": "down"}
        assert second.current().epoch == epoch

    run(main())


def test_a_withdrawn_member_is_out_and_one_that_stops_is_down() -> None:
    async def main() -> None:
        hub = hub_on(Disk())
        await hub.open()
        await hub.announce(announce("w1"), 0.0)
        await hub.announce(announce("w2"), 0.0)
        assert (await hub.withdraw(WithdrawRequest(member_id="w1", session="s"), 1.0)).was_there
        assert (await hub.withdraw(WithdrawRequest(member_id="w2", session="s", keep_place=True), 1.0)).was_there
        assert not (await hub.withdraw(WithdrawRequest(member_id="w1", session="s"), 1.0)).was_there
        assert states(hub) == {"w2": "down"}

    run(main())


def test_the_state_of_another_cluster_is_refused() -> None:
    async def main() -> None:
        disk = Disk()
        first = hub_on(disk, cluster_id="one")
        await first.open()
        await first.announce(announce(), 0.0)
        with pytest.raises(ConfigError, match="cluster 'one'"):
            await hub_on(disk, cluster_id="two").open()

    run(main())


def test_a_hub_that_is_not_open_is_not_ready() -> None:
    async def main() -> None:
        with pytest.raises(NotReady):
            hub_on(Disk()).current()

    run(main())


def test_a_hub_without_a_store_starts_at_the_clock() -> None:
    async def main() -> None:
        hub = EmbeddedHub("c")
        await hub.open()
        assert abs(hub.current().epoch - time.time()) < 5

    run(main())


def test_a_refused_announcement_changes_nothing() -> None:
    async def main() -> None:
        hub = hub_on(Disk())
        await hub.open()
        await hub.announce(announce(session="one"), 0.0)
        before = hub.current()
        with pytest.raises(Conflict):
            await hub.announce(announce(session="two", tcp="h:2"), 1.0)
        assert hub.current() is before

    run(main())
