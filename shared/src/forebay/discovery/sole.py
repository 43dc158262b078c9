"""``Election`` where there is nothing to elect: one master alone leads from its start to its end."""

from __future__ import annotations

from forebay.discovery.news import News
from forebay.discovery.terms import Leader


class SoleElection:
    """See ``protocol.Election``. The master keeps its tables itself: there is no ledger."""

    ledger = None

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self._is_open = True
        self._news = News("the leader")

    def leader(self) -> Leader | None:
        """This process."""
        return self._leader

    def is_leading(self) -> bool:
        """Until it is closed."""
        return self._is_open

    async def changed(self, epoch: int, timeout_s: float) -> Leader | None:
        """Nobody else ever leads."""
        if self._leader.epoch == epoch:
            await self._news.until(lambda: False, timeout_s)
            return None
        return self._leader

    async def close(self) -> None:
        """It leads no longer."""
        self._is_open = False
        self._news.close()

    def validate(self) -> None:
        """At rest nobody waits."""
        assert self._news.waiting == 0
