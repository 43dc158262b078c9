"""What is called certain of a listing that comes in, against every order and every cut of it."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from forebay_master.frontier import Frontier

NAMES = st.text("ab-.0", min_size=1, max_size=5).filter(lambda name: name not in {".", ".."})
KINDS = st.dictionaries(NAMES, st.booleans(), max_size=25)
"""Whether each name is a directory."""


def in_order(kinds: dict[str, bool], by_name: bool) -> list[str]:
    return sorted(kinds, key=(lambda n: n) if by_name else (lambda n: f"{n}/" if kinds[n] else n))


@given(KINDS, st.booleans(), st.lists(st.integers(1, 6), min_size=25, max_size=25), st.booleans())
def test_names_below_the_frontier_are_all_there_and_no_other_comes(
    kinds: dict[str, bool], by_name: bool, cuts: list[int], settles: bool
) -> None:
    coming, frontier, came = in_order(kinds, by_name), Frontier(), set[str]()
    while coming:
        page = coming[: cuts.pop()]
        coming = coming[len(page) :]
        came |= set(page)
        last_before = frontier.before
        frontier.advance(page, max(f"{n}/" if kinds[n] else n for n in page))
        if settles:
            for name in frontier.blocking(page):
                came |= {name} if kinds.get(name) else set()
                frontier.settle(name)
        assert frontier.before >= last_before
        assert {name for name in kinds if name < frontier.before} == {n for n in came if n < frontier.before}
    assert not frontier.is_disordered


@given(KINDS, st.randoms())
def test_a_name_that_comes_below_the_frontier_is_noticed(kinds: dict[str, bool], chance: Random) -> None:
    frontier, came = Frontier(), set[str]()
    coming = list(kinds)
    chance.shuffle(coming)
    is_late = False
    for name in coming:
        is_late = is_late or name < frontier.before
        came.add(name)
        frontier.advance([name], f"{name}/" if kinds[name] else name)
    assert frontier.is_disordered == is_late


def test_a_name_in_doubt_holds_back_a_page_until_it_is_settled() -> None:
    frontier = Frontier()
    first, second = (["train-0001", "train-0002"], ["train-0003", "train-0004"])
    frontier.advance(first, first[-1])
    assert (frontier.before, frontier.blocking(first)) == ("train", ["train"])
    frontier.settle("train")
    assert frontier.before == "train-0002"
    frontier.advance(second, second[-1])
    assert (frontier.before, frontier.blocking(second)) == ("train-0004", [])


def test_what_is_certain_behind_a_name_is_counted_by_pages() -> None:
    frontier = Frontier()
    for number in range(3):
        frontier.advance([f"{number}{digit}" for digit in range(10)], f"{number}9")
    assert frontier.before == "29"
    assert [frontier.certain(after) for after in ("", "05", "15", "28", "29")] == [30, 30, 20, 10, 0]
