"""What hints say is to be fetched, given up and kept."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import TooLarge
from forebay_worker.hints import (
    NEXT_SHARE,
    RESTING_S,
    SILENT_S,
    SLACK,
    STREAMS_MAX,
    WINDOW_BLOCKS,
    HintedBlock,
    Hints,
)
from forebay_worker.policies.governed import Governed
from forebay_worker.policies.hold import Hold
from forebay_worker.policies.ledger import Ledger


def order(count: int, size: int = 10, prefix: str = "b") -> list[HintedBlock]:
    return [HintedBlock(f"{prefix}{n}", size) for n in range(count)]


def names(hints: Hints) -> list[str]:
    return [block.block_id for block in hints.wanted()]


def test_the_window_holds_what_fits_and_moves_with_what_is_read() -> None:
    hints = Hints(35)
    hints.take("s", 0, order(10), 0.0)
    before = names(hints)

    hints.read("b0", 1.0)
    hints.read("b1", 1.0)

    assert before == ["b0", "b1", "b2"]
    assert names(hints) == ["b2", "b3", "b4"]
    assert "b4" in hints
    assert "b0" not in hints


def test_what_a_skip_made_useless_is_wanted_no_more() -> None:
    hints = Hints(35)
    hints.take("s", 0, order(40), 0.0)

    hints.read("b20", 1.0)

    assert "b1" not in hints
    assert names(hints)[0] == f"b{21 - SLACK}"  # what loaders may be behind with


def test_what_a_reader_has_come_to_is_known_from_what_it_jumped_over() -> None:
    hints = Hints(35)
    hints.take("s", 0, order(40), 0.0)
    hints.take("s", 1, order(40), 0.0, is_next=True)

    hints.read("b0", 1.0)
    hints.read("b20", 1.0)

    assert [hints.is_read(f"b{n}") for n in (0, 1, 20, 21)] == [True, False, True, False]
    assert not hints.is_read("stranger")


def test_a_window_of_small_blocks_ends_after_so_many() -> None:
    hints = Hints(1 << 30)
    hints.take("s", 0, order(2 * WINDOW_BLOCKS), 0.0)

    hints.read("b99", 0.0)

    assert names(hints)[-1] == f"b{99 + WINDOW_BLOCKS}"


def test_a_block_larger_than_the_budget_is_wanted_when_it_is_next() -> None:
    hints = Hints(5)
    hints.take("s", 0, order(3), 0.0)

    assert names(hints) == ["b0"]


def test_readers_share_the_budget_and_take_turns() -> None:
    hints = Hints(40)
    hints.take("one", 0, order(9, prefix="x"), 0.0)
    hints.take("two", 0, order(9, prefix="y"), 0.0)

    assert names(hints) == ["x0", "y0", "x1", "y1"]


def test_another_epoch_replaces_the_order_and_a_continuation_extends_it() -> None:
    hints = Hints(1000)
    hints.take("s", 0, order(3), 0.0)
    count = hints.take("s", 0, order(3, prefix="c"), 0.0, first=3)
    both = names(hints)

    hints.take("s", 1, order(2, prefix="d"), 0.0)

    assert (count, both) == (6, ["b0", "b1", "b2", "c0", "c1", "c2"])
    assert names(hints) == ["d0", "d1"]
    hints.validate()


def test_what_all_readers_have_behind_them_goes_the_last_read_first_and_what_one_awaits_stays() -> None:
    hints = Hints(20, lambda block: block != "b1")
    hints.take("one", 0, order(20), 0.0)
    hints.take("two", 0, [HintedBlock("x", 10), HintedBlock("b2", 10)], 0.0)
    for n in range(8):
        hints.read(f"b{n}", 1.0)
    hints.take("two", 1, [HintedBlock("b3", 10)], 1.0)

    gone = list(hints.behind())

    assert gone == ["b5", "b4", "b2", "b0"]  # b6 and b7 may still be being read, b3 is awaited, b1 is not here
    assert [hints.awaits(f"b{n}") for n in (0, 3, 7, 19)] == [False, True, True, True]
    assert not hints.awaits("stranger")


def test_a_read_that_found_no_room_goes_past_the_tiers_until_its_reader_says_another_order() -> None:
    hints = Hints(20)
    hints.take("s", 0, order(4), 0.0)
    hints.goes_past("b1")
    hints.goes_past("stranger")
    is_next = hints.is_past("b1")

    hints.read("b1", 0.0)
    was_read = hints.is_past("b1"), hints.is_past("b2"), hints.is_past("stranger"), hints.knows("stranger")
    hints.take("s", 1, order(4), 0.0)
    hints.read("b1", 0.0)

    assert not is_next  # it may still be fetched ahead
    assert was_read == (True, False, False, False)
    assert not hints.is_past("b1")
    hints.validate()


def test_for_a_reader_that_rests_nothing_is_fetched_or_kept_until_it_goes_on() -> None:
    hints = Hints(20)
    hints.take("s", 0, order(20), 0.0)

    hints.passed(RESTING_S + 1.0)
    resting = names(hints), hints.awaits("b9"), "b0" in hints
    hints.read("b0", RESTING_S + 2.0)

    assert resting == ([], False, False)
    assert (names(hints), hints.awaits("b9")) == (["b1", "b2"], True)


def test_what_is_here_already_counts_so_that_all_workers_look_equally_far_ahead() -> None:
    here = {"b0", "b1"}
    hints = Hints(30, lambda block: block in here)

    hints.take("s", 0, order(20), 0.0)

    assert names(hints) == ["b0", "b1", "b2"]


def test_there_are_so_many_readers_and_silent_ones_are_forgotten() -> None:
    hints = Hints(10)
    for n in range(STREAMS_MAX):
        hints.take(f"s{n}", 0, order(1), 0.0)

    with pytest.raises(TooLarge):
        hints.take("one more", 0, order(1), 1.0)
    hints.take("one more", 0, order(1), SILENT_S + 2.0)

    assert len(hints) == 1
    hints.validate()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 29)), max_size=60))
def test_windows_never_hold_more_than_the_budget(steps: list[tuple[int, int]]) -> None:
    hints = Hints(70)
    for stream, block in steps:
        if block < 3:
            hints.take(f"s{stream}", block, order(30), 0.0, is_next=block < 0)
        else:
            hints.read(f"b{block}", 0.0)
        if block == 2:
            hints.goes_past("b7")
        hints.validate()
        assert sum(b.size for b in hints.wanted()) <= max(70, 10 * len(hints))
        assert set(names(hints)) == hints.soon()


def test_a_share_of_what_is_left_of_the_budget_is_for_the_beginning_of_the_next_order() -> None:
    hints = Hints(20 * NEXT_SHARE)
    count = 2 * NEXT_SHARE + 2
    hints.take("s", 3, order(count), 0.0)
    hints.take("s", 4, order(9, prefix="c"), 0.0, is_next=True)
    first = names(hints)

    hints.read("b0", 1.0)
    hints.read("b1", 1.0)
    at_the_end = names(hints)
    hints.read("b2", 1.0)
    one_left = names(hints)
    for n in range(3, count):
        hints.read(f"b{n}", 1.0)

    assert first == [f"b{n}" for n in range(count - 2)]
    assert at_the_end == [f"b{n}" for n in range(2, count)]  # nothing is left of the budget
    assert one_left == [*(f"b{n}" for n in range(3, count)), "c0"]
    assert names(hints) == ["c0", "c1"]  # no more than its share
    hints.validate()


def test_of_the_next_order_only_what_is_soon_read_is_awaited_and_the_rest_makes_room() -> None:
    hints = Hints(20 * NEXT_SHARE, lambda _: True)
    hints.take("s", 0, order(9), 0.0)
    hints.take("s", 1, order(9), 0.0, is_next=True)

    for n in range(9):
        hints.read(f"b{n}", 1.0)

    assert names(hints) == ["b0", "b1"]
    assert [hints.awaits(f"b{n}") for n in (0, 1, 2, 6)] == [True, True, False, False]
    assert list(hints.behind()) == ["b6", "b5", "b4", "b3", "b2"]


def test_the_next_order_is_read_when_it_is_said_anew_and_without_one_before_it_at_once() -> None:
    hints = Hints(25)
    hints.take("s", 0, order(3), 0.0)
    hints.take("s", 1, order(3, prefix="c"), 0.0, is_next=True)
    hints.take("s", 1, order(3, prefix="c"), 1.0)
    hints.read("c0", 1.0)
    hints.take("other", 5, order(3, prefix="o"), 1.0, is_next=True)
    hints.read("o0", 1.0)

    assert names(hints) == ["c1", "o1"]
    assert not hints.knows("b0")
    assert len(hints) == 2
    hints.validate()


def test_a_reader_that_is_forgotten_takes_its_next_order_along() -> None:
    hints = Hints(100)
    hints.take("s", 0, order(3), 0.0)
    hints.take("s", 1, order(3, prefix="c"), 0.0, is_next=True)
    hints.passed(RESTING_S + 1.0)
    resting = names(hints), hints.awaits("c0")

    hints.take("other", 0, order(1, prefix="o"), SILENT_S + 1.0)

    assert resting == ([], False)
    assert len(hints) == 1
    hints.validate()


@pytest.mark.parametrize("is_told", [False, True], ids=["alone", "next epoch told"])
@pytest.mark.parametrize(("capacity", "count", "window"), [(60, 100, 12), (43, 51, 6), (25, 51, 2), (250, 300, 30)])
def test_each_epoch_fetches_what_the_cache_lacks_and_no_more_and_nearly_all_of_it_ahead(
    capacity: int, count: int, window: int, is_told: bool
) -> None:
    """A simulation: each read is preceded by what the window asks for; room is made after the first try, as it is."""
    size, rng = 4096, random.Random(4)
    hints = Hints(window * size, lambda block: block in policy)
    policy = Governed(Hold(capacity * size), Ledger(), hints)
    gets: list[str] = []
    fetched = 0

    def bring(block: str) -> None:
        """Two tries."""
        for _ in range(2):
            admission = policy.admit(block, size, "data", 0.0)
            if admission.is_admitted and len(policy) < capacity:
                policy.inserted(block, size, "data", 0.0)
                return gets.append(block)
            for victim in policy.victims(size, 0.0, busy=lambda _: False) if admission.is_admitted else ():
                assert not hints.awaits(victim)
                policy.removed(victim)
        return None

    orders = [rng.sample(order(count, size=size), count) for _ in range(5)]
    for epoch, blocks in enumerate(orders[:4]):
        hints.take("s", epoch, blocks, 0.0)
        if is_told:
            hints.take("s", epoch + 1, orders[epoch + 1], 0.0, is_next=True)
        gets.clear()
        missed = 0
        for block in blocks:
            for wanted in hints.wanted():
                if wanted.block_id not in policy:
                    bring(wanted.block_id)
            if block.block_id not in policy:
                missed += 1  # before anything was read that may go: it is read past the cache
                gets.append(block.block_id)
            policy.touched(block.block_id, 0.0, "data")
            hints.read(block.block_id, 0.0)

        if not is_told:
            assert len(gets) == len(set(gets)) == (count - capacity if epoch else count)
        assert missed <= 2 * SLACK
        fetched += len(gets)
        hints.validate()
    assert 0 <= fetched - count - 3 * (count - capacity) <= 4 * (window // NEXT_SHARE)  # for the next one, of each
