"""What one process wants to be known as, and how far the registry knows it. Shared by all registries; no I/O.

The shells run a loop: ask ``due``, publish it, say ``published``, ``lost`` or ``refused``. So a change, a lost session
and an outage are one and the same case: what is wanted differs from what is there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from forebay.contracts import Member
from forebay.discovery.leases import check_member
from forebay.errors import CallerError, ForebayError, InvalidRequest, PeerUnavailable


@dataclass(frozen=True)
class Published:
    """What the registry last took from us, and when (monotonic seconds)."""

    member: Member
    at_s: float


def to_publish(wanted: Member, last: Published | None, now_s: float, serving_period_s: float) -> Member:
    """What to publish now: ``wanted``, or ``last`` again if nothing but serving weight and free bytes changed since
    and that is younger than the period."""
    if last is None or now_s - last.at_s >= serving_period_s:
        return wanted
    return last.member if is_alike(wanted, last.member) else wanted


def is_alike(one: Member, other: Member) -> bool:
    """Whether two announcements differ in nothing but what moves all the time."""
    return one == msgspec.structs.replace(other, serving_weight=one.serving_weight, available_bytes=one.available_bytes)


class Announcement:
    """The wanted member and its state. For one event loop.

    Invariants: (1) what is published has the wanted member's id; (2) after a refusal nothing is wanted until the next
    ``want``; (3) at rest nobody waits.
    """

    def __init__(self, *, serving_period_s: float, conflict_wait_s: float) -> None:
        self._serving_period_s = serving_period_s
        self._conflict_wait_s = conflict_wait_s
        self._wanted: Member | None = None
        self._last: Published | None = None
        self._conflict_since_s: float | None = None
        self._was_member = False
        self._waiters: set[asyncio.Future[None]] = set()
        self.changed = asyncio.Event()

    @property
    def wanted(self) -> Member | None:
        """The member as the service last announced it."""
        return self._wanted

    @property
    def is_published(self) -> bool:
        """Whether the registry took it and the session it took it in is not known to be lost."""
        return self._last is not None

    @property
    def was_member(self) -> bool:
        """Whether the registry has taken the wanted member before, in this session or an earlier one."""
        return self._was_member

    def want(self, member: Member) -> bool:
        """Announces or updates; whether it is worth waiting for (not if only serving weight or free bytes changed).

        Raises:
            InvalidRequest: another id than before (withdraw first). What ``check_member`` raises.
        """
        check_member(member)
        before = self._wanted
        if before is not None and before.member_id != member.member_id:
            raise InvalidRequest(f"already announced as {before.member_id!r}; withdraw first")
        self._wanted = member
        self.changed.set()
        if before is None or self._last is None:
            return True
        return not is_alike(member, before)

    def drop(self) -> Member | None:
        """Nothing is wanted any more; what was until now (whether it was published or not: a call may be under way)."""
        was = self._wanted
        self._wanted = self._last = self._conflict_since_s = None
        self._was_member = False
        self._settle(PeerUnavailable("withdrawn before it was announced"))
        return was

    def due(self, now_s: float) -> Member | None:
        """What to publish now; ``None`` where nothing is wanted. Equal to what is there: nothing new to say."""
        if self._wanted is None:
            return None
        return to_publish(self._wanted, self._last, now_s, self._serving_period_s)

    def is_new(self, member: Member) -> bool:
        """Whether ``member`` differs from what was last published."""
        return self._last is None or self._last.member != member

    def published(self, member: Member, now_s: float) -> None:
        """The registry has ``member``. Time counts from the last change, not from a renewal."""
        if self._wanted is None:
            return
        if self._last is None or self._last.member != member:
            self._last = Published(member, now_s)
        self._conflict_since_s = None
        self._was_member = True
        if to_publish(self._wanted, self._last, now_s, self._serving_period_s) == member:
            self._settle(None)

    def lost(self) -> None:
        """The session is gone: as far as we know, nobody sees us any more."""
        self._last = None

    def refused(self, error: CallerError, now_s: float) -> bool:
        """The registry will not have us; whether that is final. It is not while an id that somebody holds may become
        free (``conflict_wait_s``), nor for one that was a member already: it stays wanted, whatever is wrong with the
        registry, unless a newer process took its id over."""
        reason = error.details.get("reason")
        if reason == "held":
            if self._conflict_since_s is None:
                self._conflict_since_s = now_s
            if now_s - self._conflict_since_s < self._conflict_wait_s:
                return False
        elif reason != "superseded" and self._was_member:
            return False
        self._wanted = self._last = self._conflict_since_s = None
        self._settle(error)
        return True

    async def settled(self, timeout_s: float, where: str) -> None:
        """Waits until what is wanted is published.

        Raises:
            PeerUnavailable: not within ``timeout_s``; it stays wanted. The error of a final refusal.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError as e:
            raise PeerUnavailable(f"the registry at {where} took no announcement within {timeout_s:g} s") from e
        finally:
            self._waiters.discard(waiter)

    def _settle(self, error: ForebayError | None) -> None:
        for waiter in self._waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def validate(self) -> None:
        """Checks the invariants; fixtures call it at the end of a test."""
        if self._last is not None:
            assert self._wanted is not None, self._last
            assert self._wanted.member_id == self._last.member.member_id, (self._wanted, self._last)
        assert not self._waiters, self._waiters
