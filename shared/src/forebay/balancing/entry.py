"""Whom a client asks first for a block, by its location policy. Pure.

A policy names an *entry worker*, or nobody, which means "one that may hold the block": the home, or two-choice
selection among its replicas. An entry worker that is not home reads through the home (``forebay-worker``), so whatever
the policy, every copy can be found; what the policy decides is where the bytes pass, and with passive caching where
copies pile up.

| policy | entry worker |
|---|---|
| ``deterministic-hash`` | one that may hold the block |
| ``local-first`` | the worker of this host |
| ``local-first-avoid-eviction`` | the same, while more than ``reserved_bytes`` of its tiers are free; it keeps copies |
| ``round-robin`` | each worker in turn, a block at a time |
| ``most-available`` | the worker with the most free bytes |

The last four are for comparison with systems that place data where it was read first; they cost a hop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from forebay.contracts import Member

LocationPolicy = Literal[
    "deterministic-hash", "local-first", "local-first-avoid-eviction", "round-robin", "most-available"
]

_ENTERING_STATES = frozenset({"live", "draining"})


@dataclass(frozen=True)
class Surroundings:
    """What a client knows beside the map: workers on its host, how many blocks it has begun (``turn``), and the room
    that ``local-first-avoid-eviction`` leaves alone."""

    local: Collection[str] = ()
    turn: int = 0
    reserved_bytes: int = 0


def entry_workers(members: Sequence[Member]) -> tuple[Member, ...]:
    """Those that can be an entry worker, by id: workers that answer reads, whether they own blocks or not."""
    able = (m for m in members if m.role == "worker" and m.state in _ENTERING_STATES)
    return tuple(sorted(able, key=lambda m: m.member_id))


def entry_worker(
    policy: LocationPolicy, ranked: Sequence[Member], workers: Sequence[Member], around: Surroundings
) -> Member | None:
    """The entry worker for a block whose ranking begins with ``ranked``, among ``workers`` (``entry_workers``);
    ``None`` where one that may hold the block is to be asked."""
    if policy == "deterministic-hash" or not workers:
        return None
    if policy == "round-robin":
        return workers[around.turn % len(workers)]
    rank = {m.member_id: place for place, m in enumerate(ranked)}

    def place(member: Member) -> int:
        return rank.get(member.member_id, len(rank))

    if policy == "most-available":
        return min(workers, key=lambda m: (-m.available_bytes, place(m)))
    local = [m for m in workers if m.member_id in around.local]
    if policy == "local-first-avoid-eviction":
        local = [m for m in local if m.available_bytes > around.reserved_bytes]
    return min(local, key=place, default=None)
