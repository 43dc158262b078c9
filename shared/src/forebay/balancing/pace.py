"""Who is slow: members whose answers from memory or disk take far longer than those of the others. Pure.

A worker that fails says so; one that is slow (throttled, swapping, on a bad link) has to be found by latency alone.
What counts is the time per MiB of answers that came from a tier, from the moment the request went out, divided by the
requests that we had under way there (who waits in a queue of our own making is not slow): a fill from the under store
is slow on anybody, and a worker that has just joined must not be shunned for it. The fastest of a member's last answers
is compared with the median of the others, so that a slow day of the whole cluster accuses nobody; and it must stay so
for a while, because all answers that one hiccup held up come late together.

A slow member is asked last for a while, then one request at a time tries whether it is well again (the half-open state
of a circuit breaker).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median

ANSWERS = 5
"""Answers of which the fastest counts."""

FACTOR = 3.0
"""Slow is so many times the median of the others."""

SLOW_FOR_S = 1.0
"""A member has to be slow for so long: a shorter stall of a busy machine accuses nobody."""

S_PER_MIB_MIN = 0.020
"""Nobody is slow who moves 50 MB/s in one stream."""

SIZE_MIN = 1.0
"""MiB that shorter answers are taken for: their time is mostly latency."""

AVOIDED_S_MIN, AVOIDED_S_MAX = 5.0, 60.0
"""How long a slow member is asked last; doubled each time that a trial finds it slow again."""

FRESH_S = 10.0
"""Answers older than this say nothing of the others' pace: it may be a busier moment for everybody."""


@dataclass
class _Seen:
    answers: deque[float] = field(default_factory=lambda: deque(maxlen=ANSWERS))
    at_s: float = 0.0
    slow_since_s: float | None = None
    """Since when its pace is that of a slow one; an answer in time takes it back."""
    avoided_s: float = 0.0
    """How long it was avoided last; 0 for one that is not slow."""
    until_s: float = 0.0
    on_trial: bool = False

    @property
    def pace(self) -> float:
        return min(self.answers)


class Paces:
    """What one process saw of its peers' pace. For one event loop; members that left are forgotten by ``retain``.

    Invariants: (1) only a member that is avoided is on trial; (2) a trial begins after ``until_s``; (3) at most half of
    the members are found slow: the others could not bear what they bear.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._slow: set[str] = set()

    def answered(self, member_id: str, length: int, latency_s: float, now_s: float, under_way: int = 1) -> None:
        """A member took ``latency_s`` to answer ``length`` bytes from a tier (or has not answered them after that),
        while it had ``under_way`` requests of ours, this one included."""
        seen = self._seen.get(member_id)
        if seen is None:
            seen = self._seen[member_id] = _Seen()
        answer = latency_s / max(SIZE_MIN, length / (1 << 20)) / max(1, under_way)
        if member_id in self._slow:
            self._tried(member_id, seen, answer, now_s)
            return
        seen.answers.append(answer)
        seen.at_s = now_s
        # The comparison costs a median: only what could be slow at all is compared.
        if answer < S_PER_MIB_MIN or len(seen.answers) < ANSWERS or not self._is_slow(member_id, seen.pace, now_s):
            seen.slow_since_s = None
        elif seen.slow_since_s is None:
            seen.slow_since_s = now_s
        elif now_s - seen.slow_since_s >= SLOW_FOR_S:
            self._avoid(member_id, seen, AVOIDED_S_MIN, now_s)

    def asked(self, member_id: str, now_s: float) -> None:
        """A request to the member begins: the trial, if it is avoided and the time has come."""
        if member_id in self._slow:
            seen = self._seen[member_id]
            seen.on_trial = seen.on_trial or now_s >= seen.until_s

    def unanswered(self, member_id: str) -> None:
        """A request was given up or failed: the next one may be the trial."""
        if member_id in self._slow:
            self._seen[member_id].on_trial = False

    def slow(self, now_s: float) -> Collection[str]:
        """Who is to be asked last. Empty in good times, at no cost."""
        if not self._slow:
            return ()
        return [m for m in self._slow if self._seen[m].on_trial or now_s < self._seen[m].until_s]

    def retain(self, member_ids: Collection[str]) -> None:
        """Forgets members that left the map."""
        self._seen = {m: seen for m, seen in self._seen.items() if m in member_ids}
        self._slow &= self._seen.keys()

    def _is_slow(self, member_id: str, pace: float, now_s: float) -> bool:
        others = [
            seen.pace
            for name, seen in self._seen.items()
            if name != member_id and name not in self._slow and seen.answers and now_s - seen.at_s < FRESH_S
        ]
        most = len(self._seen) // 2 - len(self._slow - {member_id})
        return most > 0 and bool(others) and pace > max(S_PER_MIB_MIN, FACTOR * median(others))

    def _tried(self, member_id: str, seen: _Seen, answer: float, now_s: float) -> None:
        if not seen.on_trial:
            return  # asked before it was found slow, or as the last resort
        if self._is_slow(member_id, answer, now_s):
            self._avoid(member_id, seen, min(AVOIDED_S_MAX, 2 * seen.avoided_s), now_s)
            return
        self._slow.discard(member_id)
        self._seen[member_id] = _Seen()

    def _avoid(self, member_id: str, seen: _Seen, avoided_s: float, now_s: float) -> None:
        self._slow.add(member_id)
        seen.avoided_s, seen.until_s, seen.on_trial = avoided_s, now_s + avoided_s, False
        seen.slow_since_s = None

    def validate(self) -> None:
        """Checks the invariants; fixtures call it at the end of a test."""
        for name, seen in self._seen.items():
            assert not seen.on_trial or name in self._slow, name
            assert (name in self._slow) <= (seen.avoided_s > 0), name
        assert 2 * len(self._slow) <= max(1, len(self._seen)), self._slow
