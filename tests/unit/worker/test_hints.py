"""What hints say is to be fetched, given up and kept."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import TooLarge
from forebay_worker.hints import SILENT_S, SLACK, STREAMS_MAX, HintedBlock, Hints
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


def test_what_was_fetched_and_read_goes_first_and_otherwise_what_was_read_last() -> None:
    hints = Hints(20)
    hints.take("s", 0, order(20), 0.0)
    hints.fetched("b0")
    for n in range(8):
        hints.read(f"b{n}", 1.0)

    fetched = hints.give(lambda _: True, is_short=False)
    nothing = hints.give(lambda _: True, is_short=False)
    last = hints.give(lambda _: True, is_short=True)

    assert (fetched, nothing) == (["b0"], [])
    assert last == [f"b{7 - SLACK}"]  # later ones may still be being read


def test_there_are_so_many_readers_and_silent_ones_are_forgotten() -> None:
    hints = Hints(10)
    for n in range(STREAMS_MAX):
        hints.take(f"s{n}", 0, order(1), 0.0)

    with pytest.raises(TooLarge):
        hints.take("one more", 0, order(1), 1.0)
    hints.take("one more", 0, order(1), SILENT_S + 2.0)

    assert len(hints) == 1
    hints.validate()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 29)), max_size=60))
def test_windows_never_hold_what_was_read_nor_more_than_the_budget(steps: list[tuple[int, int]]) -> None:
    hints = Hints(70)
    for stream, block in steps:
        if block < 3:
            hints.take(f"s{stream}", block, order(30), 0.0)
        else:
            hints.read(f"b{block}", 0.0)
        hints.validate()
        assert sum(b.size for b in hints.wanted()) <= max(70, 10 * len(hints))
        assert set(names(hints)) == hints.soon()


def test_a_cache_smaller_than_the_dataset_has_all_but_the_first_in_time_with_hints() -> None:
    """A simulation: blocks of one byte, a cache of 60 for 100; each read is preceded by what the window asks for."""
    capacity, count, rng = 60, 100, random.Random(4)
    hints = Hints(12)
    policy = Governed(Hold(capacity), Ledger(), hints)
    used, missed = 0, list[int]()

    def bring(block: str) -> bool:
        nonlocal used
        admission = policy.admit(block, 1, "data", 0.0)
        if admission.is_admitted and used >= capacity:
            for victim in policy.victims(admission.evict_bytes, 0.0, busy=lambda _: False):
                assert victim not in hints
                policy.removed(victim)
                used -= 1
        if admission.is_admitted and used < capacity:
            policy.inserted(block, 1, "data", 0.0)
            used += 1
        return block in policy

    for epoch in range(4):
        blocks = order(count, size=1)
        rng.shuffle(blocks)
        hints.take("s", epoch, blocks, 0.0)
        missed.append(0)
        for block in blocks:
            for wanted in hints.wanted():
                if wanted.block_id not in policy and bring(wanted.block_id):
                    hints.fetched(wanted.block_id)
            missed[-1] += block.block_id not in policy
            policy.touched(block.block_id, 0.0, "data")
            hints.read(block.block_id, 0.0)
            for given_up in hints.give(lambda b: b in policy, is_short=used >= capacity):
                policy.goes_first(given_up)

    assert max(missed) <= 1  # at the beginning of an epoch, before anything was fetched that may go
    assert sum(missed) <= 2
