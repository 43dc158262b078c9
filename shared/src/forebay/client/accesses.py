"""``update_access_time``: which files were opened is told to every master, in batches. Where it is off there is none.

A report that a master does not get is lost to it: access times are a service, no truth.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from forebay.contracts import Access, AccessesReply, AccessesRequest
from forebay.contracts.names import ACCESSES_MAX, ACCESSES_PATH
from forebay.errors import ForebayError
from forebay.runtime import Deadline, logs
from forebay.telemetry import Metrics
from forebay.transport import HttpClient

PERIOD_S = 5.0
"""How often masters are told."""

WAITING_MAX = 50_000
"""Files that wait to be told; more are not told."""

KNOWN_MAX = 200_000
"""Files whose time is remembered, the last ones that were opened or told."""

DEADLINE_S = 2.0


class AccessTimes:
    """What was opened here, and what masters say was opened elsewhere. A turn is the owner's to call."""

    def __init__(self, http: HttpClient, masters: Callable[[], Sequence[str]], metrics: Metrics) -> None:
        self._http, self._masters = http, masters
        self._waiting: dict[str, float] = {}
        self._known: OrderedDict[str, float] = OrderedDict()
        self._told_at_s = time.monotonic()
        self._log = logs.get("forebay.client")
        self._sent = metrics.counter("forebay_client_accesses_told_total", "access times that a master was told")
        self._lost = metrics.counter("forebay_client_accesses_lost_total", "access times that did not get through")

    def __len__(self) -> int:
        """Files that wait to be told."""
        return len(self._waiting)

    def opened(self, path: str, now_s: float) -> None:
        """A file was opened at this Unix time."""
        if path in self._waiting or len(self._waiting) < WAITING_MAX:
            self._waiting[path] = now_s
        else:
            self._lost.add(1)
        self._keep(path, now_s)

    def heard(self, directory: str, accessed: Mapping[str, float]) -> None:
        """What a master says of a directory's files."""
        base = "" if directory == "/" else directory
        for name, accessed_s in accessed.items():
            self._keep(f"{base}/{name}", accessed_s)

    def of(self, path: str) -> float | None:
        """When the file was last opened, as far as is known."""
        return self._known.get(path)

    async def turn(self) -> None:
        """Tells what waits, if it is time."""
        if time.monotonic() - self._told_at_s >= PERIOD_S:
            await self.send()

    async def send(self) -> None:
        """Tells what waits: ``ACCESSES_MAX`` files a request."""
        self._told_at_s = time.monotonic()
        waiting, self._waiting = list(self._waiting.items()), {}
        for start in range(0, len(waiting), ACCESSES_MAX):
            some = waiting[start : start + ACCESSES_MAX]
            request = AccessesRequest(accesses=tuple(Access(path=path, accessed_s=at_s) for path, at_s in some))
            for peer in self._masters():
                await self._tell(peer, request)

    async def _tell(self, peer: str, request: AccessesRequest) -> None:
        deadline, count = Deadline.after(DEADLINE_S), len(request.accesses)
        try:
            await self._http.call(peer, ACCESSES_PATH, request, AccessesReply, deadline=deadline)
        except ForebayError as e:
            self._lost.add(count)
            self._log.debug("access times were lost", master=peer, files=count, error=str(e))
        else:
            self._sent.add(count)

    def _keep(self, path: str, accessed_s: float) -> None:
        self._known[path] = max(accessed_s, self._known.get(path, 0.0))
        self._known.move_to_end(path)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
