"""How many second tries a client may make, so that a bad hour of the cluster is not made worse by its clients. Pure."""

from __future__ import annotations

SHARE = 0.2
"""Second tries per read, in the long run: the cluster sees at most a fifth more requests than were asked for."""

PER_S = 20.0
"""And so many a second whatever the number of reads, so that a lone reader gets on."""

TOKENS_MAX = 200.0
"""What may be saved up: as many reads as may be under way when a worker dies."""


class RetryBudget:
    """Tokens: every read brings ``SHARE`` of one, time brings ``PER_S``, a second try (a further step, a hedge) takes
    one. For the whole client: its readers share it."""

    def __init__(self, now_s: float) -> None:
        self._tokens = TOKENS_MAX
        self._at_s = now_s

    def earn(self) -> None:
        """A read begins."""
        if self._tokens < TOKENS_MAX:
            self._tokens = min(TOKENS_MAX, self._tokens + SHARE)

    def take(self, now_s: float) -> bool:
        """Takes a token if there is one."""
        self._refill(now_s)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def wait_s(self, now_s: float) -> float:
        """How long until there is a token, if time alone brings it."""
        self._refill(now_s)
        return max(0.0, (1.0 - self._tokens) / PER_S)

    def _refill(self, now_s: float) -> None:
        self._tokens = min(TOKENS_MAX, self._tokens + PER_S * max(0.0, now_s - self._at_s))
        self._at_s = now_s
