"""What is wanted, what is published, and what is due."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from forebay.contracts import Member
from forebay.discovery.announcing import Announcement, Published, to_publish
from forebay.errors import Conflict, InvalidRequest, PeerUnavailable, Unauthenticated
from forebay.testing import run

PERIOD_S = 30.0
HELD = Conflict("in use", reason="held")
SUPERSEDED = Conflict("taken over", reason="superseded")


def worker(**more: object) -> Member:
    return msgspec.structs.replace(Member(member_id="w1", role="worker", tcp="h:1"), **more)


def announcement() -> Announcement:
    return Announcement(serving_period_s=PERIOD_S, conflict_wait_s=15.0)


def test_a_serving_weight_alone_waits_for_its_period() -> None:
    last = Published(worker(serving_weight=1.0), at_s=100.0)
    swing = worker(serving_weight=0.2)
    assert to_publish(swing, last, 129.9, PERIOD_S) == last.member
    assert to_publish(swing, last, 130.0, PERIOD_S) == swing


def test_free_bytes_alone_wait_for_their_period_too() -> None:
    last = Published(worker(available_bytes=1), at_s=100.0)
    swing = worker(available_bytes=2, serving_weight=0.5)
    assert to_publish(swing, last, 129.9, PERIOD_S) == last.member
    assert to_publish(swing, last, 130.0, PERIOD_S) == swing


def test_any_other_change_goes_out_at_once_and_takes_the_serving_weight_along() -> None:
    last = Published(worker(serving_weight=1.0), at_s=100.0)
    for change in ({"capacity_weight": 0.0}, {"state": "draining"}, {"uds": "/x"}):
        wanted = worker(serving_weight=0.2, **change)
        assert to_publish(wanted, last, 100.1, PERIOD_S) == wanted


def test_renewals_do_not_put_a_waiting_serving_weight_off_for_ever() -> None:
    a = announcement()
    a.want(worker())
    a.published(worker(), 0.0)
    a.want(worker(serving_weight=0.5))
    for now_s in range(3, 30, 3):
        due = a.due(float(now_s))
        assert due == worker()
        a.published(due, float(now_s))
    assert a.due(30.0) == worker(serving_weight=0.5)


def test_only_a_change_of_the_serving_weight_is_not_worth_waiting_for() -> None:
    a = announcement()
    assert a.want(worker())
    assert a.want(worker(serving_weight=0.5)), "the first is not out yet"
    a.published(worker(), 0.0)
    assert not a.want(worker(serving_weight=0.4))
    assert not a.want(worker(serving_weight=0.4))
    assert a.want(worker(serving_weight=0.4, uds="/x"))


def test_after_a_lost_session_everything_is_due_again() -> None:
    a = announcement()
    a.want(worker())
    a.published(worker(), 0.0)
    a.want(worker(serving_weight=0.5))
    a.lost()
    assert not a.is_published
    assert a.due(1.0) == worker(serving_weight=0.5)


def test_an_announced_process_cannot_become_another_member() -> None:
    a = announcement()
    a.want(worker())
    with pytest.raises(InvalidRequest, match="already announced as 'w1'"):
        a.want(worker(member_id="w2"))
    a.drop()
    a.want(worker(member_id="w2"))


def test_an_id_in_use_is_waited_for_and_then_refused() -> None:
    async def main() -> None:
        a = announcement()
        a.want(worker())
        settled = asyncio.create_task(a.settled(5, "here"))
        await asyncio.sleep(0)
        assert not a.refused(HELD, 100.0)
        assert not a.refused(HELD, 114.9)
        assert a.refused(HELD, 115.0)
        with pytest.raises(Conflict):
            await settled
        assert a.due(116.0) is None
        a.validate()

    run(main())


def test_the_wait_for_an_id_begins_anew_after_it_was_held_by_us() -> None:
    a = announcement()
    a.want(worker())
    assert not a.refused(HELD, 100.0)
    a.published(worker(), 110.0)
    assert not a.refused(HELD, 200.0)
    assert a.refused(HELD, 215.0)


def test_a_process_that_was_superseded_never_fights() -> None:
    a = announcement()
    a.want(worker())
    a.published(worker(), 0.0)
    assert a.refused(SUPERSEDED, 1.0)
    assert a.wanted is None
    assert not a.is_published


def test_a_member_outlives_a_registry_that_refuses_it_for_a_while() -> None:
    error = Unauthenticated("wrong key")
    new, old = announcement(), announcement()
    new.want(worker())
    assert new.refused(error, 0.0), "at start it is a mistake in the configuration"
    old.want(worker())
    old.published(worker(), 0.0)
    assert not old.refused(error, 1.0), "later it is the registry's, and may pass"
    assert old.wanted == worker()


def test_waiting_for_an_announcement_ends_when_time_runs_out() -> None:
    async def main() -> None:
        a = announcement()
        a.want(worker())
        with pytest.raises(PeerUnavailable, match="the registry at h:9 took no announcement"):
            await a.settled(0.01, "h:9")
        assert a.due(1.0) == worker(), "it stays wanted"
        a.validate()

    run(main())


def test_a_withdrawal_ends_the_waiting() -> None:
    async def main() -> None:
        a = announcement()
        a.want(worker())
        settled = asyncio.create_task(a.settled(5, "here"))
        await asyncio.sleep(0)
        assert a.drop() == worker()
        assert a.drop() is None
        with pytest.raises(PeerUnavailable):
            await settled
        a.published(worker(), 1.0)
        assert not a.is_published, "an answer that comes after the withdrawal counts for nothing"
        a.validate()

    run(main())


def test_a_stale_publication_does_not_settle_a_newer_wish() -> None:
    async def main() -> None:
        a = announcement()
        a.want(worker())
        a.want(worker(uds="/new"))
        settled = asyncio.create_task(a.settled(5, "here"))
        await asyncio.sleep(0)
        a.published(worker(), 0.0)
        await asyncio.sleep(0)
        assert not settled.done()
        a.published(worker(uds="/new"), 0.0)
        await settled

    run(main())
