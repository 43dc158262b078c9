"""What a cache of one tier would do with a trace: any policy, and Belady's optimum. Pure; the trace has the time."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from forebay_worker.policies import Policy


@dataclass(frozen=True)
class Access:
    """One whole read of a block."""

    at_s: float
    block: str
    dataset: str
    size: int


def nobody(block: str) -> bool:
    """Nothing is busy in a simulation."""
    return False


def simulate(policy: Policy, trace: Iterable[Access], capacity_bytes: int) -> list[bool]:
    """Which accesses hit. A policy that keeps its tier full says itself what goes; others evict what they must, at
    once."""
    held: dict[str, int] = {}
    hits = []
    for access in trace:
        is_hit = access.block in policy
        hits.append(is_hit)
        if is_hit:
            policy.touched(access.block, access.at_s, access.dataset)
        else:
            _miss(policy, access, capacity_bytes, held)
    return hits


def _miss(policy: Policy, access: Access, capacity_bytes: int, held: dict[str, int]) -> None:
    admission = policy.admit(access.block, access.size, access.dataset, access.at_s)
    free = capacity_bytes - sum_of(held)
    if admission.is_admitted and free < access.size and not policy.keeps_full:
        _evict(policy, access.size - free, access.at_s, held)
        free = capacity_bytes - sum_of(held)
    if admission.is_admitted and free >= access.size:
        policy.inserted(access.block, access.size, access.dataset, access.at_s)
        held[access.block] = access.size
        held[""] = held.get("", 0) + access.size
    if policy.keeps_full and admission.evict_bytes:
        _evict(policy, admission.evict_bytes, access.at_s, held)


def sum_of(held: dict[str, int]) -> int:
    """Bytes held; the sum is kept under the empty name."""
    return held.get("", 0)


def _evict(policy: Policy, wanted_bytes: int, now_s: float, held: dict[str, int]) -> None:
    for block in policy.victims(wanted_bytes, now_s, busy=nobody):
        policy.removed(block)
        held[""] -= held.pop(block)


def belady(trace: Sequence[Access], capacity_bytes: int) -> list[bool]:
    """Which accesses the optimum would hit: it keeps what is read again soonest and need not take what it reads.
    Exact for blocks of one size (Belady, "A study of replacement algorithms", 1966), an estimate for others."""
    following = next_uses(trace)
    held: dict[str, float] = {}
    queue: list[tuple[float, str]] = []
    sizes: dict[str, int] = {}
    free = capacity_bytes
    hits = []
    for access, again in zip(trace, following, strict=True):
        hits.append(access.block in held)
        if access.block not in held:
            free -= access.size
            sizes[access.block] = access.size
        held[access.block] = again
        heapq.heappush(queue, (-again, access.block))
        while free < 0:
            at, block = heapq.heappop(queue)
            if held.get(block) == -at:
                del held[block]
                free += sizes[block]
    return hits


def next_uses(trace: Sequence[Access]) -> list[float]:
    """For each access, the number of the next one to the same block."""
    seen: dict[str, int] = {}
    following = [inf] * len(trace)
    for number in range(len(trace) - 1, -1, -1):
        block = trace[number].block
        following[number] = seen.get(block, inf)
        seen[block] = number
    return following
