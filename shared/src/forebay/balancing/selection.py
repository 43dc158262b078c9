"""Whom to ask now, among members that may hold a block: two random choices, the less loaded one wins.

The load of a member is ``(in flight + 1) × EWMA latency / serving weight`` (Mitzenmacher, "The power of two choices in
randomized load balancing", 2001). Two choices and not the best of all: clients that all see the same numbers would
otherwise all run to the same member. Pure: randomness and time come in as arguments.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from forebay.contracts import Member
from forebay.errors import PeerUnavailable

LATENCY_PRIOR_S = 0.002
"""What a member that was never asked is taken for: about a small ranged read on loopback, so that it is tried soon."""

EWMA_SHARE = 0.2
"""Share of the newest observation in the moving average."""

FORGET_HALF_LIFE_S = 10.0
"""An average moves half-way back to the prior in this time without an observation, so a slow member is asked again."""

FAILURE_LATENCY_S = 1.0
"""What a failed request counts as, where it took less: an instant refusal must not look like a fast member."""

MEMBERS_MAX = 4096
"""Members a table remembers; the one that was idle longest is forgotten first."""


@dataclass(frozen=True)
class Load:
    """What one client knows of one member: requests in flight, EWMA latency in seconds, serving weight in [0, 1]."""

    in_flight: int = 0
    latency_s: float = LATENCY_PRIOR_S
    serving_weight: float = 1.0


def pressure(load: Load) -> float:
    """``(in flight + 1) × latency / serving weight``; infinite at weight zero."""
    if load.serving_weight <= 0:
        return float("inf")
    return (load.in_flight + 1) * load.latency_s / load.serving_weight


def choose(candidates: Sequence[Member], loads: Mapping[str, Load], rng: random.Random) -> Member:
    """One of ``candidates`` by two random choices on ``pressure``. Of equals, the first drawn.

    Down members and those with serving weight zero are taken only where nobody else is left. A member without an
    entry in ``loads`` counts with the serving weight of its map entry and the prior latency.

    Raises:
        PeerUnavailable: there is no candidate.
    """
    if not candidates:
        raise PeerUnavailable("no member can serve this; wait for a worker to join")
    known = {m.member_id: loads.get(m.member_id) or Load(serving_weight=m.serving_weight) for m in candidates}
    able = [m for m in candidates if m.state != "down" and known[m.member_id].serving_weight > 0] or list(candidates)
    drawn = rng.sample(able, min(2, len(able)))
    return min(drawn, key=lambda m: pressure(known[m.member_id]))


@dataclass
class _Record:
    in_flight: int
    latency_s: float
    serving_weight: float
    observed_s: float


class LoadTable:
    """What one process has seen of its peers. Not safe across threads: one table per event loop.

    Invariants: (1) in-flight counts are ≥ 0 and return to zero when every ``start`` has had its ``finish`` or
    ``cancelled``; (2) a new member is remembered beyond ``members_max`` only if all others have requests in flight.
    """

    def __init__(self, *, members_max: int = MEMBERS_MAX) -> None:
        self._members_max = members_max
        self._records: dict[str, _Record] = {}

    def start(self, member_id: str, now_s: float) -> None:
        """A request to the member begins."""
        self._record(member_id, now_s).in_flight += 1

    def finish(self, member_id: str, now_s: float, *, latency_s: float, ok: bool = True) -> None:
        """A request ended after ``latency_s``. ``ok=False`` counts at least ``FAILURE_LATENCY_S``."""
        record = self._record(member_id, now_s)
        record.in_flight = max(0, record.in_flight - 1)
        seen = latency_s if ok else max(latency_s, FAILURE_LATENCY_S)
        before = _faded(record, now_s)
        record.latency_s = before + EWMA_SHARE * (seen - before)
        record.observed_s = now_s

    def under_way(self, member_id: str) -> int:
        """Requests in flight to the member."""
        record = self._records.get(member_id)
        return record.in_flight if record is not None else 0

    def cancelled(self, member_id: str) -> None:
        """A request was given up by its caller: it says nothing about the member."""
        record = self._records.get(member_id)
        if record is not None:
            record.in_flight = max(0, record.in_flight - 1)

    def heard_weight(self, member_id: str, serving_weight: float, now_s: float) -> None:
        """A reply carried the member's serving weight (clamped to [0, 1])."""
        self._record(member_id, now_s).serving_weight = min(1.0, max(0.0, serving_weight))

    def loads(self, candidates: Iterable[Member], now_s: float) -> dict[str, Load]:
        """What ``choose`` needs to know about those of ``candidates`` that were asked before."""
        found = ((m.member_id, self._records.get(m.member_id)) for m in candidates)
        return {name: Load(r.in_flight, _faded(r, now_s), r.serving_weight) for name, r in found if r is not None}

    def retain(self, member_ids: Iterable[str]) -> None:
        """Forgets members that left the map, those with requests in flight excepted."""
        keep = set(member_ids)
        self._records = {name: r for name, r in self._records.items() if name in keep or r.in_flight > 0}

    @property
    def in_flight(self) -> int:
        """Requests in flight to all members."""
        return sum(r.in_flight for r in self._records.values())

    def validate(self) -> None:
        """Checks the invariants; fixtures call it at the end of a test."""
        assert all(r.in_flight >= 0 for r in self._records.values()), self._records

    def _record(self, member_id: str, now_s: float) -> _Record:
        record = self._records.get(member_id)
        if record is None:
            self._make_room()
            record = self._records[member_id] = _Record(0, LATENCY_PRIOR_S, 1.0, now_s)
        return record

    def _make_room(self) -> None:
        excess = len(self._records) - self._members_max + 1
        if excess <= 0:
            return
        idle = [name for name, r in self._records.items() if r.in_flight == 0]
        for name in sorted(idle, key=lambda name: self._records[name].observed_s)[:excess]:
            del self._records[name]


def _faded(record: _Record, now_s: float) -> float:
    """The average, moved toward the prior by the time since the last observation."""
    kept: float = 0.5 ** (max(0.0, now_s - record.observed_s) / FORGET_HALF_LIFE_S)
    return LATENCY_PRIOR_S + (record.latency_s - LATENCY_PRIOR_S) * kept
