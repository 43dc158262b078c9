"""Who is there, by lease: the embedded registry's decisions. Pure: time comes in, maps are made elsewhere.

A lease is one of a few states, and what an announcement does to it is this table (``claim``):

| lease of that id            | announced by | then                                                        |
|-----------------------------|--------------|-------------------------------------------------------------|
| none                        | anyone       | new                                                         |
| held                        | its session  | renewed                                                     |
| held, or lost               | a session that it was taken from | refused for good (``superseded``)       |
| held                        | another session, same address    | taken over: one address has one process |
| held                        | another session that holds its tier directories | taken over: it is dead |
| held                        | another session, other address   | refused while the lease lives (``held``) |
| lost (down), or only known from the stored map | anyone | taken over                                   |
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from forebay.contracts import WIRE_VERSION, Member
from forebay.contracts.versions import ACCEPTED, accepted_text
from forebay.errors import Conflict, InvalidRequest, Overloaded, UnsupportedWireVersion

MEMBERS_MAX = 2000
"""Members of one cluster: about 400 bytes each keep a map well below the 1 MiB that a znode can hold."""

SUPERSEDED_KEPT = 8
"""Sessions an id was taken from that are remembered."""

TTL_RESTORED_S = 10.0
"""Lease of a member that is known from the stored map alone."""


@dataclass(frozen=True)
class Lease:
    """A member as announced. ``session`` is ``None`` for one known from the stored map; ``lost_s`` since when it is
    down, ``None`` while it is not."""

    member: Member
    session: str | None
    heard_s: float
    ttl_s: float
    lost_s: float | None = None
    superseded: tuple[str, ...] = ()


Claim = Literal["new", "renew", "take", "held", "superseded"]


def claim(lease: Lease | None, member: Member, session: str, succeeds: Collection[str] = ()) -> Claim:
    """What an announcement of ``member`` by ``session`` does to ``lease``: the table above. ``succeeds`` are nonces
    that tier directories of the announcing process had before."""
    if lease is None:
        return "new"
    if session == lease.session:
        return "renew"
    if session in lease.superseded:
        return "superseded"
    free = lease.session is None or lease.lost_s is not None or is_succeeded(lease.member, succeeds)
    return "take" if free or lease.member.tcp == member.tcp else "held"


def is_succeeded(member: Member, nonces: Collection[str]) -> bool:
    """Whether a process that found these nonces in directories which it holds now follows ``member``, which then is
    dead: a tier directory is locked by the one process that uses it, and its nonce is new at every start."""
    return any(tier.nonce in nonces for tier in member.tiers)


def refusal(verdict: Claim, member_id: str, holder: str) -> Conflict:
    """The error that names the member id and who holds it. ``details["reason"]`` is the verdict."""
    text = (
        f"member id {member_id!r} was taken over by a newer process at {holder}; this one is out"
        if verdict == "superseded"
        else f"member id {member_id!r} is in use at {holder}; give this member an id of its own"
    )
    return Conflict(text, reason=verdict, member_id=member_id, holder=holder)


def check_member(member: Member) -> None:
    """What no registry takes.

    Raises:
        InvalidRequest: a member that calls itself down. UnsupportedWireVersion: one of a wire version that is no
            neighbour of ours.
    """
    if member.wire_version not in ACCEPTED:
        raise UnsupportedWireVersion(
            f"member {member.member_id!r} speaks wire version {member.wire_version}, "
            f"this cluster {WIRE_VERSION} and works with {accepted_text()}",
            member=member.member_id,
            theirs=member.wire_version,
            ours=WIRE_VERSION,
        )
    if member.state == "down":
        raise InvalidRequest(f"member {member.member_id!r} announces itself as down; withdraw instead")


class LeaseTable:
    """All leases of one cluster.

    Invariants: (1) at most ``MEMBERS_MAX`` leases, each under its member's id; (2) nobody's stored state is down: that
    follows from ``lost_s``; (3) a lease's session is not among those it was taken from.
    """

    def __init__(self, *, down_s: float) -> None:
        self._down_s = down_s
        self._leases: dict[str, Lease] = {}

    def restore(self, members: Iterable[Member], now_s: float) -> None:
        """Members of the stored map: they have a lease's time to announce themselves again."""
        for m in members:
            lost_s = now_s if m.state == "down" else None
            self._leases[m.member_id] = Lease(_unmarked(m), None, now_s, TTL_RESTORED_S, lost_s)

    def announce(
        self, member: Member, session: str, ttl_s: float, now_s: float, succeeds: Collection[str] = ()
    ) -> bool:
        """Takes an announcement; whether the map shows anything new by it.

        Raises:
            Conflict: another member holds the id. Overloaded: the cluster is full. What ``check_member`` raises.
        """
        check_member(member)
        old = self._leases.get(member.member_id)
        verdict = claim(old, member, session, succeeds)
        if old is not None and verdict in {"held", "superseded"}:
            raise refusal(verdict, member.member_id, old.member.tcp)
        if old is None and len(self._leases) >= MEMBERS_MAX:
            raise Overloaded(f"the cluster has {MEMBERS_MAX} members, no more are taken", limit=MEMBERS_MAX)
        self._leases[member.member_id] = Lease(member, session, now_s, ttl_s, None, _taken_from(old, session))
        return old is None or old.lost_s is not None or old.member != member

    def withdraw(self, member_id: str, session: str, now_s: float, *, keep_place: bool) -> bool:
        """Ends the lease if ``session`` holds it: out, or with ``keep_place`` down."""
        lease = self._leases.get(member_id)
        if lease is None or lease.session not in (session, None):
            return False
        if keep_place:
            self._leases[member_id] = replace(lease, lost_s=lease.lost_s if lease.lost_s is not None else now_s)
        else:
            del self._leases[member_id]
        return True

    def expire(self, now_s: float) -> None:
        """Leases that ran out make their members down; those down for long enough are out."""
        for name, lease in list(self._leases.items()):
            if lease.lost_s is not None:
                if now_s - lease.lost_s >= self._down_s:
                    del self._leases[name]
            elif now_s - lease.heard_s >= lease.ttl_s:
                self._leases[name] = replace(lease, lost_s=now_s)

    def forgive(self, gap_s: float, now_s: float) -> None:
        """The registry itself was away for ``gap_s`` and could hear nobody: that time counts for no one."""
        for name, lease in self._leases.items():
            heard_s = min(now_s, lease.heard_s + gap_s)
            lost_s = None if lease.lost_s is None else min(now_s, lease.lost_s + gap_s)
            self._leases[name] = replace(lease, heard_s=heard_s, lost_s=lost_s)

    def members(self) -> list[Member]:
        """All members as the map shows them."""
        return [as_down(lease.member) if lease.lost_s is not None else lease.member for lease in self._leases.values()]

    def validate(self) -> None:
        """Checks the invariants; fixtures call it at the end of a test."""
        assert len(self._leases) <= MEMBERS_MAX, len(self._leases)
        for name, lease in self._leases.items():
            assert lease.member.member_id == name, lease
            assert lease.member.state != "down", lease
            assert lease.session is None or lease.session not in lease.superseded, lease


def as_down(member: Member) -> Member:
    """The member marked down, if it owned or served anything; a joining or draining one keeps owning nothing."""
    # Down keeps ownership, draining has given it away: a draining member that vanishes must not get it back.
    weight = member.capacity_weight if member.state in ("live", "down") else 0.0
    return _with(member, state="down", capacity_weight=weight)


def _unmarked(member: Member) -> Member:
    return _with(member, state="live") if member.state == "down" else member


def _with(member: Member, **changes: object) -> Member:
    return msgspec.structs.replace(member, **changes)


def _taken_from(old: Lease | None, session: str) -> tuple[str, ...]:
    if old is None:
        return ()
    if old.session is None or old.session == session:
        return old.superseded
    return (*old.superseded, old.session)[-SUPERSEDED_KEPT:]
