"""How many streams fill the input's buffers: more while the training waits, fewer once all are always full. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

ROUND = 16
"""Pieces between two decisions."""

LATE_SHARE = 0.1
"""Part of the pieces of a round that were waited for, above which another stream is tried."""

IDLE_ROUNDS = 4
"""Rounds without a wait before a stream is given up."""


@dataclass(frozen=True)
class Streams:
    """``count`` streams of at most ``most``; ``taken`` pieces of this round, ``late`` of them waited for."""

    count: int
    most: int
    taken: int = 0
    late: int = 0
    idle_rounds: int = 0


def taken(state: Streams, *, was_late: bool) -> Streams:
    """The state after the training took a piece."""
    state = replace(state, taken=state.taken + 1, late=state.late + was_late)
    if state.taken < ROUND:
        return state
    if state.late > ROUND * LATE_SHARE:
        return Streams(min(state.count + 1, state.most), state.most)
    idle = 0 if state.late else state.idle_rounds + 1
    if idle >= IDLE_ROUNDS:
        return Streams(max(1, state.count - 1), state.most)
    return Streams(state.count, state.most, idle_rounds=idle)
