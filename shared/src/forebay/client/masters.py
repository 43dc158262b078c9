"""Calls to the masters: any of them answers, so the next is asked when one does not; changes go to the leader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from forebay.client.plan import goes_on, round_pause_s
from forebay.contracts import Record
from forebay.errors import ForebayError, NotLeader, PeerUnavailable, UfsError
from forebay.runtime import Deadline
from forebay.telemetry import waits
from forebay.transport import HttpClient

R = TypeVar("R", bound=Record)

ATTEMPT_S = 3.0
"""Time for one master before the next is asked, while there is time left."""


class Masters:
    """Remembers which master answered last. ``addresses`` reads them anew for each round."""

    def __init__(self, http: HttpClient, addresses: Callable[[], Sequence[str]]) -> None:
        self._http = http
        self._addresses = addresses
        self._last: str | None = None

    async def call(
        self,
        path: str,
        request: Record | None,
        kind: type[R],
        *,
        deadline: Deadline,
        method: str = "POST",
        attempt_s: float = ATTEMPT_S,
    ) -> R:
        """The first answer, or the first error that another master would give as well. ``attempt_s``: the time for one
        master, where an answer may take longer than others.

        Raises:
            ForebayError: what the master said; when none answered in time, what the last one failed with.
        """
        with waits.timed("metadata"):
            return await self._call(path, request, kind, deadline=deadline, method=method, attempt_s=attempt_s)

    async def _call(
        self, path: str, request: Record | None, kind: type[R], *, deadline: Deadline, method: str, attempt_s: float
    ) -> R:
        error: ForebayError = PeerUnavailable("no master is known yet")
        for round_index in range(1, 1000):
            peers = self._order()
            while peers:
                peer = peers.pop(0)
                try:
                    reply = await self._http.call(
                        peer, path, request, kind, deadline=deadline.sooner(attempt_s), method=method
                    )
                except ForebayError as e:
                    if not goes_on(e):
                        raise
                    error = telling(error, e)
                    if deadline.expired:
                        raise error from None
                    if isinstance(e, NotLeader) and (leader := e.details.get("leader")) in peers:
                        peers.remove(str(leader))
                        peers.insert(0, str(leader))
                else:
                    self._last = peer
                    return reply
            if deadline.remaining_s() <= round_pause_s(round_index):
                break
            await asyncio.sleep(round_pause_s(round_index))
        raise error

    def _order(self) -> list[str]:
        return sorted(self._addresses(), key=lambda peer: peer != self._last)


def telling(before: ForebayError, now: ForebayError) -> ForebayError:
    """Which of two errors a caller gets: what an under store said beats that nobody answered afterwards. Pure."""
    return before if isinstance(before, UfsError) and not isinstance(now, UfsError) else now
