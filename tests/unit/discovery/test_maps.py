"""Cluster maps: what follows from what, and the cell that keeps the last good one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from forebay.contracts import ClusterMap, Member
from forebay.contracts.members import master_addresses
from forebay.discovery.maps import EPOCHS_KEPT, MapCell, first_map, next_map
from forebay.errors import Overloaded
from forebay.telemetry import quiet
from forebay.testing import run


def worker(name: str, **more: object) -> Member:
    return msgspec.structs.replace(Member(member_id=name, role="worker", tcp=f"{name}:1"), **more)


def cluster_map(epoch: int, revision: int, *members: Member) -> ClusterMap:
    return ClusterMap(cluster_id="c", epoch=epoch, revision=revision, members=members)


BASE = cluster_map(5, 50, worker("a"), worker("b", capacity_weight=2.0))


@pytest.mark.parametrize(
    ("members", "epoch_grows"),
    [
        ([worker("a"), worker("b", capacity_weight=2.0), worker("c")], True),
        ([worker("a")], True),
        ([worker("a"), worker("b", capacity_weight=2.1)], True),
        ([worker("a"), worker("b", capacity_weight=2.0, state="draining")], True),
        ([worker("a"), worker("b", capacity_weight=0.0)], True),
        ([worker("a"), worker("b", capacity_weight=2.0, state="down")], False),
        ([worker("a"), worker("b", capacity_weight=2.0, serving_weight=0.1)], False),
        ([worker("a", tcp="elsewhere:1"), worker("b", capacity_weight=2.0)], False),
        ([worker("a"), worker("b", capacity_weight=2.0), worker("c", state="joining")], False),
        ([worker("a"), worker("b", capacity_weight=2.0), Member(member_id="m", role="master", tcp="m:1")], False),
    ],
)
def test_the_epoch_grows_only_with_ownership_the_revision_with_everything(
    members: list[Member], epoch_grows: bool
) -> None:
    following = next_map(BASE, members)
    assert following.revision == BASE.revision + 1
    assert following.epoch == BASE.epoch + epoch_grows


def test_nothing_new_is_the_same_map_whatever_the_order() -> None:
    assert next_map(BASE, list(reversed(BASE.members))) is BASE


def test_a_registry_without_memory_starts_at_the_clock() -> None:
    earlier, later = first_map("c", 1_700_000_000.9), first_map("c", 1_700_000_060.0)
    assert earlier.epoch == earlier.revision == 1_700_000_000
    assert next_map(earlier, [worker("a")]).epoch < later.epoch


def test_masters_that_are_down_are_named_only_where_all_are() -> None:
    def master(name: str, **more: object) -> Member:
        return msgspec.structs.replace(Member(member_id=name, role="master", tcp=f"{name}:1"), **more)

    assert master_addresses(None) == []
    assert master_addresses(cluster_map(1, 1, worker("w"))) == []
    both = cluster_map(1, 1, master("m1", state="down"), master("m2"), worker("w"))
    assert master_addresses(both) == ["m2:1"]
    assert master_addresses(cluster_map(1, 1, master("m1", state="down"))) == ["m1:1"]


def test_the_cell_takes_only_newer_maps() -> None:
    cell = MapCell()
    assert cell.offer(BASE)
    assert not cell.offer(BASE)
    assert not cell.offer(cluster_map(5, 49))
    assert not cell.offer(cluster_map(4, 51)), "an epoch never falls"
    assert cell.current is BASE
    assert cell.offer(cluster_map(5, 51))
    cell.validate()


def test_the_cell_remembers_one_map_an_epoch_up_to_a_limit() -> None:
    cell = MapCell()
    for revision in range(40):
        cell.offer(cluster_map(revision // 2, revision))
        cell.validate()
    history = cell.history()
    assert [m.epoch for m in history] == list(range(19, 19 - EPOCHS_KEPT, -1))
    assert all(m.revision % 2 == 1 for m in history), "the last of each epoch"


def test_waiters_wake_at_the_first_newer_map() -> None:
    async def main() -> None:
        cell = MapCell()
        first = asyncio.create_task(cell.changed(-1, 5))
        second = asyncio.create_task(cell.changed(50, 5))
        await asyncio.sleep(0)
        cell.offer(BASE)
        assert await first is BASE
        assert not second.done()
        newer = cluster_map(5, 51)
        cell.offer(newer)
        assert await second is newer
        cell.validate()

    run(main())


def test_a_cancelled_waiter_leaves_no_trace() -> None:
    async def main() -> None:
        cell = MapCell()
        waiting = asyncio.create_task(cell.changed(-1, 5))
        await asyncio.sleep(0)
        assert cell.waiting == 1
        waiting.cancel()
        await asyncio.wait([waiting])
        cell.validate()

    run(main())


def test_too_many_waiters_are_refused() -> None:
    async def main() -> None:
        cell = MapCell(waiters_max=1)
        waiting = asyncio.create_task(cell.changed(-1, 0.05))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await cell.changed(-1, 1)
        assert await waiting is None
        cell.validate()

    run(main())


def test_a_closed_cell_lets_its_waiters_go_but_not_news_be_lost() -> None:
    async def main() -> None:
        cell = MapCell()
        cell.offer(BASE)
        waiting = asyncio.create_task(cell.changed(50, 5))
        await asyncio.sleep(0)
        cell.close()
        assert await waiting is None
        assert await cell.changed(49, 5) is BASE
        assert await cell.changed(50, 5) is None
        cell.validate()

    run(main())


def test_the_metrics_show_epoch_revision_and_age() -> None:
    now_s = 100.0
    telemetry, cell = quiet(), MapCell(clock=lambda: now_s)
    cell.measure(telemetry)
    cell.offer(BASE)
    now_s = 107.5
    text = telemetry.metrics.render().decode()
    assert "forebay_discovery_map_epoch 5.0" in text
    assert "forebay_discovery_map_revision 50.0" in text
    assert "forebay_discovery_map_age_seconds 7.5" in text
    cell.confirm()
    assert "forebay_discovery_map_age_seconds 0.0" in telemetry.metrics.render().decode()
