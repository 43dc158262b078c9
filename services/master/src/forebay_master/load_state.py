"""The life of a load as a table, and what follows an audit. Pure.

    queued -> planning -> filling <-> auditing -> succeeded
                 |           |            |
                 v           +-> failed <-+          (planned: a dry run; cancelled: from any state that is not over)

A master that dies leaves a load in the state that was stored; the next start queues it again (``INTERRUPTED``). What
was filled meanwhile is found by asking the workers, so nothing else has to be durable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from forebay.contracts.loads import LoadState

NO_PROGRESS_ROUNDS_MAX = 2
"""Rounds in a row that bring nothing before a load gives up, if all workers answer."""

PATIENCE_S = 180.0
"""How long a load waits for workers that are away without getting on: three times what a member is down before it is
out, and its blocks have other owners."""


class Event(Enum):
    """What can happen to a load."""

    BEGUN = "begun"
    PLANNED = "planned"
    WILL_NOT_FIT = "will not fit"
    STARTED = "started"
    FILLED = "filled"
    AGREED = "agreed"
    LACKING = "lacking"
    GIVEN_UP = "given up"
    BROKEN = "broken"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


TRANSITIONS: dict[tuple[LoadState, Event], LoadState] = {
    ("queued", Event.BEGUN): "planning",
    ("planning", Event.PLANNED): "planned",
    ("planning", Event.WILL_NOT_FIT): "failed",
    ("planning", Event.STARTED): "filling",
    ("filling", Event.FILLED): "auditing",
    ("auditing", Event.AGREED): "succeeded",
    ("auditing", Event.LACKING): "filling",
    ("auditing", Event.GIVEN_UP): "failed",
}
_RUNNING: tuple[LoadState, ...] = ("queued", "planning", "filling", "auditing")
for _state in _RUNNING:
    TRANSITIONS[_state, Event.BROKEN] = "failed"
    TRANSITIONS[_state, Event.CANCELLED] = "cancelled"
    TRANSITIONS[_state, Event.INTERRUPTED] = "queued"


def after(state: LoadState, event: Event) -> LoadState:
    """The next state. Raises ``ValueError`` for a pair that is not in the table: a bug of ours."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a load that is {state} cannot be {event.value}") from None


class Next(Enum):
    """What follows an audit."""

    SUCCEED = "succeed"
    AGAIN = "again"
    WAIT = "wait"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class Course:
    """How a load got on so far: the least that was ever missing, rounds since then without progress, and when that
    was."""

    least_missing: int | None = None
    idle_rounds: int = 0
    progress_at_s: float = 0.0

    def audited(self, missing: int, unreachable: int, now_s: float) -> tuple[Course, Next]:
        """After an audit that found ``missing`` blocks lacking, ``unreachable`` of them because a worker is away."""
        if missing == 0:
            return self, Next.SUCCEED
        if self.least_missing is None or missing < self.least_missing:
            return Course(missing, 0, now_s), Next.WAIT if unreachable == missing else Next.AGAIN
        later = Course(self.least_missing, self.idle_rounds + 1, self.progress_at_s)
        if unreachable and now_s - self.progress_at_s < PATIENCE_S:
            return later, Next.WAIT
        return later, Next.GIVE_UP if unreachable or later.idle_rounds >= NO_PROGRESS_ROUNDS_MAX else Next.AGAIN
