"""The simulator and Belady's optimum, against what can be counted by hand or by trying everything."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.simulator import Access, belady, next_uses, simulate
from forebay_worker.policies import POLICIES, Lru

SIZE = 4096


def trace_of(text: str) -> list[Access]:
    return [Access(float(number), name, "d", SIZE) for number, name in enumerate(text)]


def most_hits(text: str, room: int) -> int:
    """By trying every choice of what to keep."""

    @cache
    def best(place: int, held: frozenset[str]) -> int:
        if place == len(text):
            return 0
        name = text[place]
        if name in held:
            return 1 + best(place + 1, held)
        choices = [held]
        if len(held) < room:
            choices.append(held | {name})
        choices += [held - {other} | {name} for other in held]
        return max(best(place + 1, choice) for choice in choices)

    return best(0, frozenset())


def test_lru_hits_what_was_read_within_its_room() -> None:
    assert simulate(Lru(), trace_of("abcabdab"), 2 * SIZE) == [False] * 8
    assert simulate(Lru(), trace_of("abaca"), 2 * SIZE) == [False, False, True, False, True]


def test_the_next_use_of_a_block_is_known() -> None:
    assert next_uses(trace_of("abca"))[:1] == [3]
    assert next_uses(trace_of("abca"))[1:] == [float("inf")] * 3


@given(text=st.text("abcde", max_size=14), room=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_no_choice_hits_more_than_belady_and_belady_can_be_reached(text: str, room: int) -> None:
    assert sum(belady(trace_of(text), room * SIZE)) == most_hits(text, room)


@given(text=st.text("abcdefgh", max_size=60), room=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_no_policy_beats_belady(text: str, room: int) -> None:
    trace = trace_of(text)
    most = sum(belady(trace, room * SIZE))
    for make in POLICIES.values():
        assert sum(simulate(make(room * SIZE), trace, room * SIZE)) <= most
