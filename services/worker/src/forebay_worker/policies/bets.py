"""Learns by experience which of two blocks is read first: the one that was just missed, or the one it would replace.

Each time the question comes up a bet is opened on the pair, whatever is then done with it; the next read of either
settles it. So what was learned does not depend on what was decided, and a change in what is read shows within one
turn of it. Bets of one kind (``context``) share one estimate, which forgets: it is an average of the last few dozen.
"""

from __future__ import annotations

from dataclasses import dataclass

BETS_MAX = 256
"""Open bets; while there are as many, no more are opened, except in place of one that nobody settled in ``AGE_MAX``."""

AGE_MAX = 16
"""Times the number of resident blocks, in reads: then a bet is forgotten."""

MEMORY = 64.0
"""Bets after which an estimate counts its past by half."""

PRIOR = 8.0
"""How many bets an estimate's prior is worth."""


@dataclass(eq=False, slots=True)
class _Bet:
    newcomer: str
    resident: str
    context: str
    opened: int


@dataclass(slots=True)
class _Record:
    won: float = 0.0
    count: float = 0.0


class Bets:
    """Open bets by the block, and the record of each context. ``priors``: share of newcomers that win, by context."""

    def __init__(self, priors: dict[str, float]) -> None:
        self._priors = priors
        self._records = {context: _Record() for context in priors}
        self._open: dict[str, _Bet] = {}

    def chance(self, context: str) -> float:
        """Estimated share of bets that the newcomer wins."""
        record = self._records[context]
        return (record.won + PRIOR * self._priors[context]) / (record.count + PRIOR)

    def open(self, newcomer: str, resident: str, context: str, *, tick: int, age_max: int) -> None:
        """A new bet, unless one of the two is in one already, or there are too many."""
        if newcomer in self._open or resident in self._open or newcomer == resident:
            return
        if len(self._open) >= 2 * BETS_MAX:
            oldest = next(iter(self._open.values()))
            if tick - oldest.opened < age_max:
                return
            self._close(oldest)
        bet = _Bet(newcomer, resident, context, tick)
        self._open[newcomer] = self._open[resident] = bet

    def read(self, block: str) -> None:
        """Settles the bet that the block is in."""
        bet = self._open.get(block)
        if bet is None:
            return
        self._close(bet)
        record = self._records[bet.context]
        if record.count >= MEMORY:
            record.won /= 2
            record.count /= 2
        record.won += block == bet.newcomer
        record.count += 1

    def _close(self, bet: _Bet) -> None:
        del self._open[bet.newcomer], self._open[bet.resident]

    def __len__(self) -> int:
        return len(self._open) // 2
