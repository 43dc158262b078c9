"""Tickets of this client: one per mount, fetched once, renewed in the background from half of their life.

An expired ticket is still sent when no master answers: whether it is honoured (``ticket_grace``) is the worker's
decision, and reads go on while the masters are away.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

from forebay.client.tasks import Tasks
from forebay.contracts import TicketReply
from forebay.errors import ForebayError, StaleVersion

TICKETS_MAX = 4096
"""Mounts whose tickets are held at once."""

EXPIRED_WAIT_S = 1.0
"""How long a read waits for a new ticket before it sends the expired one."""

RETRY_S = 5.0
"""Wait after a renewal failed, while the old ticket is still good."""


@dataclass(frozen=True)
class HeldTicket:
    """A ticket with the local time at which it came; ``retry_at_s`` holds back renewals after one failed. One that a
    worker refused (``is_refused``) is kept for want of a better: while no master answers it may be honoured later."""

    reply: TicketReply
    obtained_at_s: float
    retry_at_s: float = 0.0
    is_refused: bool = False

    def state(self, now_s: float) -> Literal["fresh", "renew", "expired"]:
        """``renew`` from half of the life that was left when it came."""
        if self.is_refused or now_s >= self.reply.expires_at_s:
            return "expired"
        half = self.obtained_at_s + (self.reply.expires_at_s - self.obtained_at_s) / 2
        return "renew" if now_s >= half and now_s >= self.retry_at_s else "fresh"


class TicketCache:
    """``fetch`` asks a master for the ticket of a path; ``clock`` is wall time (tickets carry UTC seconds)."""

    def __init__(
        self, fetch: Callable[[str], Awaitable[TicketReply]], *, clock: Callable[[], float], tasks: Tasks
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._tasks = tasks
        self._held: OrderedDict[str, HeldTicket] = OrderedDict()
        self._running: dict[str, asyncio.Task[TicketReply]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def replicas(self, mount_id: str) -> int:
        """Replicas of the mount, as its ticket told; 1 before there is one."""
        held = self._held.get(mount_id)
        return held.reply.mount.replicas if held is not None else 1

    async def get(self, mount_id: str, path: str) -> TicketReply:
        """A ticket for the mount; ``path`` is any path below it.

        Raises:
            ForebayError: there is none yet and the master's answer was an error.
        """
        held = self._held.get(mount_id)
        if held is None:
            return await self._renew(mount_id, path)
        state = held.state(self._clock())
        if state == "renew":
            self._renew(mount_id, path)
        elif state == "expired" and self._clock() >= held.retry_at_s:
            return await self._renewed_soon(held, mount_id, path)
        return held.reply

    async def _renewed_soon(self, held: HeldTicket, mount_id: str, path: str) -> TicketReply:
        """A new ticket if a master gives one within ``EXPIRED_WAIT_S``, else the expired one: a worker that sees a
        master will say if it is not good enough, one that sees none may honour it."""
        try:
            async with asyncio.timeout(None if held.is_refused else EXPIRED_WAIT_S):
                return await self._renew(mount_id, path)
        except TimeoutError:
            return held.reply
        except ForebayError as e:
            if not e.retryable:
                raise
            return held.reply

    def drop(self, mount_id: str, ticket: str) -> bool:
        """Ask for another one next time, because a worker refused ``ticket``; whether it was still the one held."""
        held = self._held.get(mount_id)
        if held is None or held.reply.ticket != ticket or held.is_refused:
            return False
        self._held[mount_id] = replace(held, is_refused=True, retry_at_s=0.0)
        return True

    def _renew(self, mount_id: str, path: str) -> asyncio.Future[TicketReply]:
        """The one running fetch for the mount (single-flight); awaiting the result never cancels it."""
        running = self._running.get(mount_id)
        if running is None:
            running = self._tasks.spawn(f"ticket {mount_id}", self._fetch_one(mount_id, path))
            self._running[mount_id] = running
        return asyncio.shield(running)

    async def _fetch_one(self, mount_id: str, path: str) -> TicketReply:
        try:
            reply = await self._fetch(path)
        except ForebayError:
            if (held := self._held.get(mount_id)) is not None:
                retry_at = self._clock() + RETRY_S
                self._held[mount_id] = replace(held, retry_at_s=retry_at)
            raise
        finally:
            self._running.pop(mount_id, None)
        # The mount may have been replaced at that path: what came is kept under its own name.
        self._held[reply.mount.mount_id] = HeldTicket(reply, self._clock())
        self._held.move_to_end(reply.mount.mount_id)
        while len(self._held) > TICKETS_MAX:
            self._held.popitem(last=False)
        if reply.mount.mount_id != mount_id:
            raise StaleVersion("the mount was replaced by another; open the file anew", mount_id=mount_id)
        return reply
