"""Telling workers which of their block files were read here past them: one report per worker and turn."""

from __future__ import annotations

import time

from forebay.client.local import LocalDirs
from forebay.client.members import Members
from forebay.client.touches import STILL_OPEN_S, Touches
from forebay.contracts import TouchReply
from forebay.contracts.blocks import TOUCH_PATH
from forebay.errors import ForebayError
from forebay.runtime import Deadline, logs
from forebay.telemetry import Metrics
from forebay.transport import HttpClient

TOUCH_DEADLINE_S = 2.0


class TouchReports:
    """Gathers from ``local`` what was opened and read, and sends it. A turn is the owner's to call."""

    def __init__(self, http: HttpClient, members: Members, local: LocalDirs, metrics: Metrics) -> None:
        self._http = http
        self._members = members
        self._local = local
        self._log = logs.get("forebay.client")
        self._touches = Touches()
        self._reported_open_s = time.monotonic()
        metrics.observed(
            "forebay_client_touches_dropped", "touch reports that did not fit", lambda: self._touches.dropped
        )

    def __len__(self) -> int:
        """Blocks that wait to be reported."""
        return len(self._touches)

    async def turn(self) -> None:
        """What is new since the last turn, and every ``STILL_OPEN_S`` what is still open."""
        still_open = time.monotonic() - self._reported_open_s >= STILL_OPEN_S
        if still_open:
            self._reported_open_s = time.monotonic()
        self.gather(still_open=still_open)
        await self.send()

    def gather(self, *, still_open: bool) -> None:
        """Takes over what blocks counted; with ``still_open`` those too that only stay open."""
        ended, self._local.ended = self._local.ended, []
        held = self._local.detached_blocks if still_open else ()
        for block in [*ended, *held, *(b for b in self._local.open_blocks if still_open or b.opens)]:
            self._touches.add(block.member_id, block.block_id, opens=block.opens, read_bytes=block.read_bytes)
            block.opens = block.read_bytes = 0

    async def send(self) -> None:
        """One report per worker; one that does not arrive is lost: it only informs eviction."""
        addresses = self._members.addresses()
        for member_id, request in self._touches.take().items():
            if (peer := addresses.get(member_id)) is None:
                continue
            try:
                deadline = Deadline.after(TOUCH_DEADLINE_S)
                await self._http.call(peer, TOUCH_PATH, request, TouchReply, deadline=deadline)
            except ForebayError as e:
                self._log.debug("a touch report was lost", member=member_id, error=str(e))
