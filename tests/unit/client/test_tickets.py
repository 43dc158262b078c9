"""Tickets: one fetch for many, renewed from half of their life, an expired one better than none."""

from __future__ import annotations

import asyncio

import pytest

from forebay.client.tasks import Tasks
from forebay.client.tickets import RETRY_S, HeldTicket, TicketCache
from forebay.contracts import TicketReply
from forebay.errors import NotFound, PeerUnavailable, StaleVersion
from forebay.testing import run
from forebay.testing.fake_cluster import MOUNT_ID, fake_mount


def ticket(text: str, expires_at_s: float) -> TicketReply:
    return TicketReply(ticket=text, mount=fake_mount(block_size=1), expires_at_s=expires_at_s)


class Scene:
    """A cache over a master that gives numbered tickets of 100 s; ``down`` makes it fail."""

    def __init__(self) -> None:
        self.now_s, self.asked = 0.0, 0
        self.down: Exception | None = None
        self.unexpected: list[str] = []
        self.tasks = Tasks(lambda name, error: self.unexpected.append(name))
        self.cache = TicketCache(self.fetch, clock=lambda: self.now_s, tasks=self.tasks)

    async def fetch(self, path: str) -> TicketReply:
        self.asked += 1
        await asyncio.sleep(0)
        if self.down is not None:
            raise self.down
        return ticket(f"t{self.asked}", self.now_s + 100.0)

    async def get(self) -> str:
        reply = await self.cache.get(MOUNT_ID, "/a")
        await asyncio.sleep(0.001)  # lets a renewal in the background finish
        return reply.ticket


def test_a_ticket_is_fresh_until_half_of_its_life_then_renewed_then_expired() -> None:
    held = HeldTicket(ticket("t", 200.0), 100.0)
    assert [held.state(t) for t in (100.0, 149.9, 150.0, 199.9, 200.0)] == [
        "fresh", "fresh", "renew", "renew", "expired",
    ]  # fmt: skip


def test_many_readers_cause_one_fetch() -> None:
    async def main() -> None:
        scene = Scene()
        assert set(await asyncio.gather(*(scene.get() for _ in range(20)))) == {"t1"}
        assert scene.asked == 1

    run(main())


def test_from_half_life_the_old_one_is_used_while_a_new_one_comes() -> None:
    async def main() -> None:
        scene = Scene()
        assert await scene.get() == "t1"
        scene.now_s = 50.0
        assert await scene.get() == "t1"
        assert await scene.get() == "t2"

    run(main())


def test_a_failed_renewal_is_tried_again_later_and_the_old_ticket_stays() -> None:
    async def main() -> None:
        scene = Scene()
        await scene.get()
        scene.now_s, scene.down = 50.0, PeerUnavailable("no master")
        assert [await scene.get() for _ in range(3)] == ["t1"] * 3
        assert scene.asked == 2
        scene.now_s, scene.down = 50.0 + RETRY_S, None
        await scene.get()
        assert await scene.get() == "t3"
        assert scene.unexpected == []

    run(main())


def test_without_a_master_an_expired_ticket_is_still_given_out() -> None:
    async def main() -> None:
        scene = Scene()
        await scene.get()
        scene.now_s, scene.down = 1000.0, PeerUnavailable("no master")
        assert await scene.get() == "t1"
        assert scene.asked == 2
        assert await scene.get() == "t1"
        assert scene.asked == 2, "nor is a master asked for each read"
        scene.now_s, scene.down = 1000.0 + RETRY_S, NotFound("no such mount")
        with pytest.raises(NotFound):
            await scene.get()

    run(main())


def test_a_mount_that_was_replaced_makes_the_reader_stale() -> None:
    async def main() -> None:
        scene = Scene()
        with pytest.raises(StaleVersion):
            await scene.cache.get("another mount", "/a")

    run(main())


def test_a_refused_ticket_is_forgotten_only_if_it_is_the_one_held() -> None:
    async def main() -> None:
        scene = Scene()
        await scene.get()
        assert not scene.cache.drop(MOUNT_ID, "t0")
        assert scene.cache.drop(MOUNT_ID, "t1")
        assert await scene.get() == "t2"

    run(main())


def test_a_refused_ticket_is_still_given_out_while_no_master_answers() -> None:
    async def main() -> None:
        scene = Scene()
        await scene.get()
        assert scene.cache.drop(MOUNT_ID, "t1")
        scene.down = PeerUnavailable("no master")
        assert await scene.get() == "t1"
        assert not scene.cache.drop(MOUNT_ID, "t1"), "there is no other to try"
        scene.now_s, scene.down = RETRY_S, None
        assert await scene.get() == "t3"

    run(main())


def test_one_waiter_that_gives_up_does_not_cancel_the_fetch_for_the_others() -> None:
    async def main() -> None:
        scene = Scene()
        first, second = (asyncio.ensure_future(scene.get()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == "t1"

    run(main())
