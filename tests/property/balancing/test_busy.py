"""What a member owes and what came of it: the measure, and a small cluster in which one member becomes slow."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.balancing import Owed, Paces
from forebay.balancing.busy import WINDOW_S, Busy, Window
from forebay.balancing.pace import AVOIDED_S_MIN, DOUBT_S

MIB = 1 << 20


@dataclass(eq=False)
class Answer:
    """One that arrives as time goes on."""

    length: int = MIB
    came: float = 0.0
    is_held: bool = True
    at_s: float = 0.0
    owed: Owed = field(init=False)

    def __post_init__(self) -> None:
        self.owed = Owed(lambda: int(self.came), self.is_held)


# -- the measure


def test_a_window_is_full_after_its_time_of_work_and_counts_what_has_landed_of_answers_that_have_not_ended() -> None:
    busy, answers = Busy(), [Answer(), Answer()]
    for answer in answers:
        busy.begin(answer.owed, 10.0)
        answer.came = MIB / 4
    assert busy.window(10.0 + 0.9 * WINDOW_S) is None
    assert busy.window(10.0 + WINDOW_S) == Window(10.0, WINDOW_S / 0.5)
    assert busy.window(10.0 + 1.1 * WINDOW_S) is None
    busy.validate()


def test_time_in_which_nothing_is_owed_does_not_count() -> None:
    busy, now_s = Busy(), 0.0
    for _ in range(9):
        answer = Answer()
        busy.begin(answer.owed, now_s)
        answer.came = MIB
        busy.end(answer.owed, MIB, now_s + WINDOW_S / 10)
        now_s += 60.0
        assert busy.window(now_s) is None
    answer = Answer()
    busy.begin(answer.owed, now_s)
    busy.end(answer.owed, MIB, now_s + 1.01 * WINDOW_S / 10)
    window = busy.window(now_s + 1.0)
    assert window is not None
    assert abs(window.s_per_mib - WINDOW_S / 10) < WINDOW_S / 100
    assert not len(busy)


def test_short_answers_count_as_a_mib_and_what_was_given_up_as_what_had_come() -> None:
    busy, now_s = Busy(), 0.0
    for length, came in ((4096, 4096), (0, MIB // 2)):
        answer = Answer()
        busy.begin(answer.owed, now_s)
        answer.came = came
        now_s += WINDOW_S / 4
        busy.end(answer.owed, length, now_s)
        answer.came = 0  # the buffer is another's now
    held = Answer()
    busy.begin(held.owed, WINDOW_S / 2)
    assert busy.window(WINDOW_S) == Window(0.0, WINDOW_S / 1.5)


def test_who_has_to_fetch_the_block_first_is_not_timed_and_what_it_gives_counts() -> None:
    busy, filled, held = Busy(), Answer(is_held=False), Answer()
    busy.begin(filled.owed, 0.0)
    assert busy.window(9.0) is None
    busy.begin(held.owed, 9.0)
    filled.came = MIB / 2
    assert busy.window(9.0 + WINDOW_S) == Window(9.0, WINDOW_S / 0.5)


def test_what_comes_while_nothing_held_is_owed_counts_as_little_as_the_time() -> None:
    busy, filled = Busy(), Answer(is_held=False)
    busy.begin(filled.owed, 0.0)
    filled.came = MIB
    busy.end(filled.owed, MIB, 3.0)
    held = Answer()
    busy.begin(held.owed, 4.0)
    held.came = MIB / 2
    assert busy.window(4.0 + WINDOW_S) == Window(4.0, WINDOW_S / 0.5)


def test_a_member_that_gives_nothing_at_all_says_nothing_of_its_pace() -> None:
    busy, answer = Busy(), Answer()
    busy.begin(answer.owed, 0.0)
    for tenth in range(100):
        assert busy.window(tenth / 10) is None


def test_time_in_which_we_did_not_look_is_not_the_members() -> None:
    busy, answer = Busy(), Answer()
    busy.begin(answer.owed, 0.0)
    answer.came = MIB
    assert busy.window(30.0) == Window(0.0, WINDOW_S)


def test_an_answer_of_before_a_member_left_changes_nothing() -> None:
    paces, answer = Paces(), Answer()
    paces.owes("a", answer.owed, 0.0)
    paces.retain(())
    paces.settled("a", answer.owed, MIB, 1.0)
    paces.owes("a", answer.owed, 2.0)
    paces.retain({"a"})
    paces.settled("a", answer.owed, MIB, 3.0)
    paces.settled("a", answer.owed, MIB, 4.0)
    paces.validate()


# -- a cluster

STEP_S = 0.01


class Readers:
    """So many readers, each with one request at a time at a random member that is not avoided, and none at one that
    is; a member shares its line, ``rates`` (bytes a second), among those it owes."""

    def __init__(self, rates: dict[str, float], *, readers: int, seed: int, length: int = MIB) -> None:
        self.paces, self.now_s, self.rates = Paces(), 0.0, rates
        self.accused: list[tuple[float, str]] = []
        self._rng, self._length = random.Random(seed), length
        self._owed: dict[str, list[Answer]] = {name: [] for name in rates}
        for _ in range(readers):
            self._ask()

    def _ask(self) -> None:
        shunned = self.paces.slow(self.now_s)
        name = self._rng.choice([n for n in self.rates if n not in shunned] or list(self.rates))
        answer = Answer(self._length, at_s=self.now_s)
        self._owed[name].append(answer)
        self.paces.asked(name, self.now_s)
        self.paces.owes(name, answer.owed, self.now_s)

    def go_on(self, for_s: float) -> None:
        """So much time passes."""
        end_s = self.now_s + for_s
        while self.now_s < end_s:
            self.now_s += STEP_S
            for name in self.rates:
                self._step(name)
            for name in self.paces.slow(self.now_s):
                if name not in {n for _, n in self.accused}:
                    self.accused.append((self.now_s, name))
            self.paces.validate()

    def _step(self, name: str) -> None:
        owed = self._owed[name]
        each = self.rates[name] * STEP_S / max(1, len(owed))
        for answer in list(owed):
            answer.came += each
            if answer.came >= answer.length:
                self._end(name, answer, answer.length)
        self.paces.look(name, self.now_s)
        if self.paces.is_avoided(name, self.now_s):
            for answer in list(owed):
                self._end(name, answer, 0)

    def _end(self, name: str, answer: Answer, length: int) -> None:
        self._owed[name].remove(answer)
        self.paces.settled(name, answer.owed, length, self.now_s)
        tell = self.paces.answered if length else self.paces.late
        tell(name, answer.length, self.now_s - answer.at_s, self.now_s, answer.owed.meanwhile)
        self._ask()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([4, 16, 40]), st.floats(0.02, 0.27))
def test_a_member_that_is_throttled_is_found_within_two_and_a_half_seconds(
    seed: int, readers: int, share: float
) -> None:
    # given: four alike
    cluster = Readers(dict.fromkeys("abcd", 15e6), readers=readers, seed=seed)
    cluster.go_on(3.0)
    assert not cluster.accused
    # when one of them gives a part of what it gave
    cluster.rates["a"] *= share
    changed_s = cluster.now_s
    cluster.go_on(6.0)
    # then it is accused, and nobody else
    assert [name for _, name in cluster.accused] == ["a"]
    if readers >= 16:  # few readers may leave it alone for a while
        assert cluster.accused[0][0] - changed_s < 2.5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 30), st.lists(st.floats(10e6, 22e6), min_size=2, max_size=5), st.integers(1, 20))
def test_members_of_about_the_same_pace_are_never_accused_however_the_load_lies(
    seed: int, rates: list[float], readers: int
) -> None:
    cluster = Readers({str(i): rate for i, rate in enumerate(rates)}, readers=readers, seed=seed)
    cluster.go_on(8.0)
    assert not cluster.accused


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 30), st.floats(0.1, 0.9))
def test_stalls_of_less_than_a_second_accuse_nobody(seed: int, stall_s: float) -> None:
    cluster = Readers(dict.fromkeys("abc", 15e6), readers=12, seed=seed)
    rng = random.Random(seed)
    for _ in range(8):
        name = rng.choice("abc")
        cluster.rates[name] = 15e4
        cluster.go_on(stall_s)
        cluster.rates[name] = 15e6
        cluster.go_on(2 * WINDOW_S)
    assert not cluster.accused


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1 << 30))
def test_a_slow_day_of_all_accuses_nobody(seed: int) -> None:
    cluster = Readers(dict.fromkeys("abc", 15e6), readers=12, seed=seed)
    rng = random.Random(seed)
    for _ in range(10):
        share = rng.uniform(0.05, 1.0)
        for name in "abc":
            cluster.rates[name] = 15e6 * share
        cluster.go_on(1.0)
    assert not cluster.accused


@pytest.mark.parametrize("has_fetched", [False, True])
def test_who_had_to_fetch_what_it_held_is_not_judged_for_a_while_by_what_it_owes(has_fetched: bool) -> None:
    cluster = Readers(dict.fromkeys("abcd", 15e6), readers=16, seed=1)
    cluster.go_on(2.0)
    if has_fetched:
        cluster.paces.fetched("a", cluster.now_s)
    cluster.rates["a"] = 1e4  # no answer of it ends
    cluster.go_on(4.0)
    assert [name for _, name in cluster.accused] == ([] if has_fetched else ["a"])
    assert cluster.paces.is_doubted("a", cluster.now_s) == has_fetched
    assert not cluster.paces.is_doubted("a", cluster.now_s + DOUBT_S)


def test_a_trial_that_goes_on_slowly_ends_after_one_window() -> None:
    cluster = Readers(dict.fromkeys("abcd", 15e6), readers=16, seed=1)
    cluster.go_on(2.0)
    cluster.rates["a"] = 1e6
    cluster.go_on(2.5)
    found_s = cluster.accused[0][0]
    # when its time is over, somebody tries: a MiB would take a second, and half of that is enough
    cluster.go_on(found_s + AVOIDED_S_MIN - cluster.now_s)
    assert "a" not in cluster.paces.slow(cluster.now_s)
    trial_s = cluster.now_s
    while not cluster.paces.is_avoided("a", cluster.now_s):
        cluster.go_on(STEP_S)
    assert cluster.now_s - trial_s < 2 * WINDOW_S
    assert cluster.paces.is_avoided("a", cluster.now_s + 1.9 * AVOIDED_S_MIN)


def test_a_member_that_is_well_again_is_asked_like_the_others() -> None:
    cluster = Readers(dict.fromkeys("abcd", 15e6), readers=16, seed=2)
    cluster.go_on(2.0)
    cluster.rates["a"] = 1e6
    cluster.go_on(2.5)
    assert "a" in cluster.paces.slow(cluster.now_s)
    cluster.rates["a"] = 15e6
    cluster.go_on(AVOIDED_S_MIN + 1.0)
    assert "a" not in cluster.paces.slow(cluster.now_s)
    cluster.go_on(10.0)
    assert "a" not in cluster.paces.slow(cluster.now_s)
