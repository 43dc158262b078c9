"""The order in which members are asked for a block."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from forebay import errors
from forebay.client.plan import STEPS_MAX, SUSPECT_S_MAX, Holders, Step, Suspects, goes_on, hedge_member, steps
from forebay.contracts import Member
from forebay.contracts.records import MemberState


def worker(name: str, state: MemberState = "live") -> Member:
    return Member(member_id=name, role="worker", tcp=f"{name}:1", state=state)


RANKED = [worker(n) for n in "abcdef"]


def order(ranked: Sequence[Member] = RANKED, *, suspects: frozenset[str] = frozenset(), replicas: int = 1) -> str:
    return "".join(
        s.member.member_id + ("!" if s.hop else "")
        for s in steps(Holders(ranked, replicas), suspects=suspects, remaining_s=30.0, step_s=10.0)
    )


def test_the_home_is_asked_first_and_the_next_in_ranking_may_not_forward() -> None:
    assert order() == "ab!c!d!"


def test_replicas_are_asked_before_the_rest_of_the_ranking() -> None:
    assert order(replicas=2) == "abc!d!"


def test_a_down_member_is_skipped_and_the_next_takes_over_without_forwarding() -> None:
    assert order([worker("a", "down"), *RANKED[1:]]) == "b!c!d!e!"


def test_a_suspect_is_asked_last() -> None:
    assert order(RANKED[:3], suspects=frozenset("a")) == "b!c!a"


def test_no_member_no_step() -> None:
    assert order([]) == ""


def test_never_more_than_the_named_number_of_steps() -> None:
    assert len(steps(Holders(RANKED), suspects=(), remaining_s=1.0, step_s=1.0)) == STEPS_MAX


def test_selection_chooses_among_the_replicas_only() -> None:
    seen: list[str] = []

    def pick(holders: Sequence[Member]) -> Member:
        seen.extend(m.member_id for m in holders)
        return holders[-1]

    got = steps(Holders(RANKED, 2), suspects=(), remaining_s=30.0, step_s=10.0, pick=pick)
    assert seen == ["a", "b"]
    assert [s.member.member_id for s in got] == ["b", "a", "c", "d"]


def test_an_entry_worker_is_asked_first_and_may_forward() -> None:
    got = steps(Holders(RANKED, entry=RANKED[3]), suspects=(), remaining_s=30.0, step_s=10.0)
    assert [(s.member.member_id, s.hop) for s in got[:3]] == [("d", False), ("a", False), ("b", True)]


def test_who_was_offered_the_block_is_probed_before_its_home() -> None:
    offered = Holders(RANKED[:3], offered=RANKED[1])
    got = steps(offered, suspects=(), remaining_s=30.0, step_s=10.0)
    assert [(s.member.member_id, s.probe, s.hop) for s in got] == [
        ("b", True, True),
        ("a", False, False),
        ("b", False, True),
        ("c", False, True),
    ]
    for shunned in (replace(offered, lacking={"b"}), replace(offered, entry=RANKED[2])):
        assert not any(s.probe for s in steps(shunned, suspects=(), remaining_s=30.0, step_s=10.0))
    assert not any(s.probe for s in steps(offered, suspects={"b"}, remaining_s=30.0, step_s=10.0))


def hedged(holders: Holders, *, first: str = "a", suspects: str = "") -> str | None:
    member = hedge_member(holders, Step(worker(first), hop=False, timeout_s=1.0), suspects=set(suspects))
    return member.member_id if member is not None else None


def test_a_second_request_goes_to_one_that_may_hold_the_block_and_is_well() -> None:
    assert hedged(Holders(RANKED, 3)) == "b"
    assert hedged(Holders(RANKED, 3), first="b") == "a"
    assert hedged(Holders(RANKED, 3), suspects="b") == "c"
    assert hedged(Holders(RANKED, 3, lacking={"b"})) == "c"
    assert hedged(Holders([RANKED[0], worker("b", "down"), *RANKED[2:]], 3)) == "c"
    assert hedged(Holders(RANKED, 1, offered=RANKED[4])) == "e"


def test_without_replicas_only_the_next_in_ranking_may_hold_it() -> None:
    assert hedged(Holders(RANKED)) == "b"
    assert hedged(Holders(RANKED, lacking={"b"})) is None
    assert hedged(Holders(RANKED[:1])) is None


def test_each_step_leaves_time_for_those_after_it() -> None:
    got = steps(Holders(RANKED[:2]), suspects=(), remaining_s=4.0, step_s=10.0)
    assert [s.timeout_s for s in got] == [2.0, 4.0]
    got = steps(Holders(RANKED[:2]), suspects=(), remaining_s=30.0, step_s=10.0)
    assert [s.timeout_s for s in got] == [10.0, 10.0]


@pytest.mark.parametrize(
    ("error", "on"),
    [
        (errors.PeerUnavailable("x"), True),
        (errors.PeerMisbehaved("x"), True),
        (errors.DeadlineExceeded("x"), True),
        (errors.Overloaded("x"), True),
        (errors.NotReady("x"), True),
        (errors.UfsUnavailable("x"), True),
        (errors.StaleVersion("x"), False),
        (errors.NotFound("x"), False),
        (errors.UfsDenied("x"), False),
        (errors.PermissionDenied("x"), False),
        (errors.RangeNotSatisfiable("x"), False),
    ],
)
def test_only_what_another_member_may_better_goes_on(error: errors.ForebayError, on: bool) -> None:
    assert goes_on(error) is on


def test_a_member_that_fails_again_is_avoided_for_longer_up_to_a_bound() -> None:
    suspects = Suspects()
    suspects.failed("a", 0.0)
    assert suspects.now(0.4) == {"a"}
    assert suspects.now(0.5) == set()
    suspects.failed("a", 1.0)
    assert suspects.now(1.9) == {"a"}
    for _ in range(20):
        suspects.failed("a", 2.0)
    assert suspects.now(2.0 + SUSPECT_S_MAX) == set()


def test_an_answer_clears_the_suspicion_and_members_that_left_are_forgotten() -> None:
    suspects = Suspects()
    suspects.failed("a", 0.0)
    suspects.failed("b", 0.0)
    suspects.answered("a")
    assert suspects.now(0.1) == {"b"}
    suspects.forget_others({"a"})
    assert suspects.now(0.1) == set()


def test_a_suspect_whose_time_is_over_is_tried_by_one_request_at_a_time() -> None:
    suspects = Suspects()
    suspects.failed("a", 0.0)
    now = SUSPECT_S_MAX
    assert suspects.now(now) == frozenset()
    suspects.asked("a", now)
    assert suspects.now(now) == frozenset("a")
    suspects.given_up("a")
    assert suspects.now(now) == frozenset()
    suspects.asked("a", now)
    suspects.failed("a", now)
    assert suspects.now(now + 0.9) == frozenset("a")  # the second failure in a row: 1 s
    assert suspects.now(now + 1.1) == frozenset()
    suspects.asked("a", now + 1.1)
    suspects.answered("a")
    assert suspects.now(now + 1.1) == frozenset()


def test_a_request_to_a_suspect_as_the_last_resort_is_no_trial() -> None:
    suspects = Suspects()
    suspects.failed("a", 0.0)
    suspects.asked("a", 0.1)
    suspects.given_up("a")
    assert suspects.now(0.2) == frozenset("a")
