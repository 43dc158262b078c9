"""Who is slow: members whose answers from memory or disk take far longer than those of the others. Pure.

A worker that fails says so; one that is slow (throttled, swapping, on a bad link) has to be found by latency alone.
What counts is the time per MiB of answers that came from a tier: a fill from the under store is slow on anybody, and a
worker that has just joined must not be shunned for it. It is measured in two ways, and each is compared with the median
of the others, so that a slow day of the whole cluster accuses nobody; and it must stay so for a while, because all
answers that one hiccup held up come late together.

* *Answers*: the fastest of a member's last ones, each from the moment the request went out, divided by all that came
  from the member meanwhile (who waits in a queue of our own making is not slow). They find one that is asked little.
* *Work* (``busy``): what arrives in half a second in which it owes us something. It finds, within a second or two, a
  member on which all readers wait; its answers would tell when they end, and so does nothing before.

A slow member is asked last for a while, then one request at a time tries whether it is well again (the half-open state
of a circuit breaker).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median

from forebay.balancing.busy import MIB, SIZE_MIN, Busy, Owed, Window

ANSWERS = 5
"""Answers of which the fastest counts."""

FACTOR = 3.0
"""Slow is so many times the median of the others."""

SLOW_FOR_S = 1.0
"""A member has to be slow for so long: a shorter stall of a busy machine accuses nobody."""

S_PER_MIB_MIN = 0.020
"""Nobody is slow who moves 50 MB/s in one stream."""

AVOIDED_S_MIN, AVOIDED_S_MAX = 5.0, 60.0
"""How long a slow member is asked last; doubled each time that a trial finds it slow again."""

FRESH_S = 10.0
"""Answers older than this say nothing of the others' pace: it may be a busier moment for everybody."""

DOUBT_S = 30.0
"""So long after a member had to fetch what it had held before, it is not judged by what it does not answer: it lets go
of blocks (the cache is smaller than the dataset), so a reader that waits may wait for the under store."""


@dataclass
class _Seen:
    answers: deque[float] = field(default_factory=lambda: deque(maxlen=ANSWERS))
    at_s: float = 0.0
    slow_since_s: float | None = None
    """Since when its pace is that of a slow one; an answer in time takes it back."""
    work: Window | None = None
    """The last window of work."""
    slow_work_since_s: float | None = None
    """When the first of the windows of slow work in a row ended."""
    avoided_s: float = 0.0
    """How long it was avoided last; 0 for one that is not slow."""
    until_s: float = 0.0
    on_trial: bool = False
    doubted_until_s: float = 0.0
    """See ``DOUBT_S``; acquittal does not end it."""

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
        self._busy: dict[str, Busy] = {}

    def answered(self, member_id: str, length: int, latency_s: float, now_s: float, came_mib: float = 0.0) -> None:
        """A member took ``latency_s`` to answer ``length`` bytes from a tier; ``came_mib`` came from it meanwhile."""
        seen, answer = self._of(member_id), _pace(length, latency_s, came_mib)
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

    def late(self, member_id: str, length: int, waited_s: float, now_s: float, came_mib: float = 0.0) -> None:
        """A member has not answered after ``waited_s``, and is not waited for any more: an answer, if that is slow
        already; else it says nothing."""
        pace = _pace(length, waited_s, came_mib)
        if pace >= S_PER_MIB_MIN and not self.is_doubted(member_id, now_s) and self._is_slow(member_id, pace, now_s):
            self.answered(member_id, length, waited_s, now_s, came_mib)
        else:
            self.unanswered(member_id)

    def fetched(self, member_id: str, now_s: float) -> None:
        """A member had to fetch what it had held when it was asked before."""
        seen = self._of(member_id)
        seen.doubted_until_s = now_s + DOUBT_S
        seen.work = seen.slow_work_since_s = None

    def owes(self, member_id: str, owed: Owed, now_s: float) -> None:
        """A request went out."""
        busy = self._busy.get(member_id)
        if busy is None:
            busy = self._busy[member_id] = Busy()
        busy.begin(owed, now_s)

    def settled(self, member_id: str, owed: Owed, length: int, now_s: float) -> None:
        """It has ended, with ``length`` bytes; 0 if it failed or was given up."""
        if member_id in self._busy:
            self._busy[member_id].end(owed, length, now_s)
            self.look(member_id, now_s)

    def look(self, member_id: str, now_s: float) -> None:
        """Judges what the member gave by now. To be called now and then while it owes anything."""
        busy = self._busy.get(member_id)
        window = busy.window(now_s) if busy is not None else None
        if window is None or self.is_doubted(member_id, now_s):
            return
        seen = self._of(member_id)
        seen.work = window
        is_slow = self._is_slow_work(member_id, window, now_s)
        if member_id in self._slow:
            if is_slow and seen.on_trial:
                self._avoid_longer(member_id, seen, now_s)
        elif not is_slow:
            seen.slow_work_since_s = None
        elif seen.slow_work_since_s is None:
            seen.slow_work_since_s = now_s
        elif now_s - seen.slow_work_since_s >= SLOW_FOR_S:
            self._avoid(member_id, seen, AVOIDED_S_MIN, now_s)

    def asked(self, member_id: str, now_s: float) -> None:
        """A request to the member begins: the trial, if it is avoided and the time has come."""
        if member_id in self._slow:
            seen = self._seen[member_id]
            if not seen.on_trial and now_s >= seen.until_s:
                seen.on_trial = True
                if member_id in self._busy:
                    self._busy[member_id].restart(now_s)

    def unanswered(self, member_id: str) -> None:
        """A request was given up or failed: the next one may be the trial."""
        if member_id in self._slow:
            self._seen[member_id].on_trial = False

    def slow(self, now_s: float) -> Collection[str]:
        """Who is to be asked last. Empty in good times, at no cost."""
        if not self._slow:
            return ()
        return [m for m in self._slow if self._seen[m].on_trial or now_s < self._seen[m].until_s]

    def is_avoided(self, member_id: str, now_s: float) -> bool:
        """Whether it was found slow and its time is not over; one on trial is not avoided."""
        return member_id in self._slow and now_s < self._seen[member_id].until_s

    def retain(self, member_ids: Collection[str]) -> None:
        """Forgets members that left the map."""
        self._seen = {m: seen for m, seen in self._seen.items() if m in member_ids}
        self._busy = {m: busy for m, busy in self._busy.items() if m in member_ids}
        self._slow &= self._seen.keys()

    def _of(self, member_id: str) -> _Seen:
        seen = self._seen.get(member_id)
        if seen is None:
            seen = self._seen[member_id] = _Seen()
        return seen

    def is_doubted(self, member_id: str, now_s: float) -> bool:
        """Whether it had to fetch lately what it had held before."""
        seen = self._seen.get(member_id)
        return seen is not None and now_s < seen.doubted_until_s

    def _is_slow(self, member_id: str, pace: float, now_s: float) -> bool:
        others = [
            seen.pace
            for name, seen in self._seen.items()
            if name != member_id and name not in self._slow and seen.answers and now_s - seen.at_s < FRESH_S
        ]
        return self._is_far_behind(member_id, pace, others)

    def _is_slow_work(self, member_id: str, window: Window, now_s: float) -> bool:
        if window.s_per_mib < S_PER_MIB_MIN:
            return False
        others = [
            seen.work.s_per_mib
            for name, seen in self._seen.items()
            if name != member_id and name not in self._slow and seen.work and now_s - seen.work.since_s < FRESH_S
        ]
        return self._is_far_behind(member_id, window.s_per_mib, others)

    def _is_far_behind(self, member_id: str, s_per_mib: float, others: list[float]) -> bool:
        most = len(self._seen) // 2 - len(self._slow - {member_id})
        return most > 0 and bool(others) and s_per_mib > max(S_PER_MIB_MIN, FACTOR * median(others))

    def _tried(self, member_id: str, seen: _Seen, answer: float, now_s: float) -> None:
        if not seen.on_trial:
            return  # asked before it was found slow, or as the last resort
        if self._is_slow(member_id, answer, now_s):
            self._avoid_longer(member_id, seen, now_s)
            return
        self._slow.discard(member_id)
        self._seen[member_id] = _Seen(doubted_until_s=seen.doubted_until_s)

    def _avoid_longer(self, member_id: str, seen: _Seen, now_s: float) -> None:
        self._avoid(member_id, seen, min(AVOIDED_S_MAX, 2 * seen.avoided_s), now_s)

    def _avoid(self, member_id: str, seen: _Seen, avoided_s: float, now_s: float) -> None:
        self._slow.add(member_id)
        seen.avoided_s, seen.until_s, seen.on_trial = avoided_s, now_s + avoided_s, False
        seen.slow_since_s = seen.slow_work_since_s = None

    def validate(self) -> None:
        """Checks the invariants; fixtures call it at the end of a test."""
        for name, seen in self._seen.items():
            assert not seen.on_trial or name in self._slow, name
            assert (name in self._slow) <= (seen.avoided_s > 0), name
        assert 2 * len(self._slow) <= max(1, len(self._seen)), self._slow
        for busy in self._busy.values():
            busy.validate()


def _pace(length: int, took_s: float, came_mib: float) -> float:
    """Seconds per MiB of one answer, and of what came beside it."""
    return took_s / max(SIZE_MIN, length / MIB, came_mib)
