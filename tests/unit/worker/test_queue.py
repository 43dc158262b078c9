"""The shared queue of extents: order, single-flight, withdrawal."""

from __future__ import annotations

from forebay_worker.extents import ExtentSet, Geometry
from forebay_worker.queue import FillQueue, Run


def block(queue: FillQueue, name: str, count: int, *, run_extents_max: int = 1) -> ExtentSet:
    extents = ExtentSet(Geometry(count * 4, extent_size=4))
    queue.open(name, extents, run_extents_max=run_extents_max)
    return extents


def land(queue: FillQueue, run: Run, extents: ExtentSet) -> None:
    for extent in run.extents:
        extents.add(extent)
        queue.landed(run, extent)
    queue.ended(run)


def test_what_a_reader_waits_for_comes_before_the_rest_of_blocks() -> None:
    queue = FillQueue(streams_max=9)
    block(queue, "a", 3)
    block(queue, "b", 3)
    queue.complete("a")
    queue.want("b", 1, [2])
    runs = [queue.next_run() for _ in range(5)]
    assert runs == [Run("b", 2, 1), Run("a", 0, 1), Run("a", 1, 1), Run("a", 2, 1), None]
    queue.validate()


def test_an_extent_is_in_flight_once_however_many_want_it() -> None:
    queue = FillQueue(streams_max=9)
    block(queue, "a", 2)
    assert queue.want("a", 1, [0]) == 0
    assert queue.want("a", 2, [0]) == 1
    assert queue.next_run() == Run("a", 0, 1)
    assert queue.want("a", 3, [0]) == 1
    assert queue.next_run() is None
    queue.validate()


def test_no_more_runs_than_streams() -> None:
    queue = FillQueue(streams_max=2)
    extents = block(queue, "a", 3)
    queue.want("a", 1, [0, 1, 2])
    first, second = queue.next_run(), queue.next_run()
    assert first is not None
    assert second is not None
    assert queue.next_run() is None
    land(queue, first, extents)
    assert queue.next_run() == Run("a", 2, 1)
    queue.validate()


def test_blocks_take_turns() -> None:
    queue = FillQueue(streams_max=9)
    for name in "ab":
        block(queue, name, 2)
        queue.want(name, 1, [0, 1])
    assert [run.block_id for run in iter(queue.next_run, None)] == ["a", "b", "a", "b"]


def test_neighbours_go_in_one_run_when_streams_are_scarce() -> None:
    queue = FillQueue(streams_max=1)
    extents = block(queue, "a", 9, run_extents_max=4)
    queue.want("a", 1, [1, 2, 3, 4, 5, 7])
    runs = []
    while (run := queue.next_run()) is not None:
        runs.append(run)
        queue.validate()
        land(queue, run, extents)
    assert runs == [Run("a", 1, 4), Run("a", 5, 1), Run("a", 7, 1)]


def test_a_lone_reader_uses_all_streams() -> None:
    queue = FillQueue(streams_max=4)
    block(queue, "a", 8, run_extents_max=4)
    queue.want("a", 1, range(8))
    assert list(iter(queue.next_run, None)) == [Run("a", 0, 2), Run("a", 2, 2), Run("a", 4, 2), Run("a", 6, 2)]
    queue.validate()


def test_a_reader_that_goes_away_withdraws_only_its_own_wish() -> None:
    queue = FillQueue(streams_max=9)
    block(queue, "a", 3)
    queue.want("a", 1, [0, 1])
    queue.want("a", 2, [1])
    queue.unwant("a", 1)
    assert list(iter(queue.next_run, None)) == [Run("a", 1, 1)]
    queue.unwant("a", 2)
    queue.validate()


def test_a_failed_run_is_not_asked_again_until_a_reader_says_so() -> None:
    queue = FillQueue(streams_max=9)
    block(queue, "a", 2)
    queue.complete("a")
    queue.want("a", 1, [0])
    run = queue.next_run()
    assert run == Run("a", 0, 1)
    queue.failed(run)
    queue.ended(run)
    assert queue.next_run() is None
    assert not queue.is_wanted("a", 1, 0)
    queue.want("a", 1, [0])
    assert queue.next_run() == Run("a", 0, 1)
    queue.validate()


def test_a_closed_block_is_out_of_every_turn_and_its_runs_end_by_themselves() -> None:
    queue = FillQueue(streams_max=9)
    extents = block(queue, "a", 2)
    queue.want("a", 1, [0])
    queue.complete("a")
    run = queue.next_run()
    assert run is not None
    queue.close("a")
    assert queue.next_run() is None
    assert queue.is_idle("a")
    land(queue, run, extents)
    assert queue.in_flight == 0
    queue.validate()
