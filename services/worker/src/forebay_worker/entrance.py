"""The gate with its clock and its mount table: waits a moment for mounts that are newer than our copy."""

from __future__ import annotations

import time
from collections.abc import Callable

from forebay.contracts import BlockTarget
from forebay.errors import NotFound
from forebay_worker.access import Asked, Gate
from forebay_worker.mount_watch import MountWatch
from forebay_worker.mounts import MountBook

MOUNT_WAIT_S = 1.0
"""How long a read of a mount that this worker does not know waits for a newer table."""


class Entrance:
    """Checks requests now. ``ticket_grace_s`` keeps expired tickets alive while this worker sees no master."""

    def __init__(
        self,
        gate: Gate,
        book: MountBook,
        watch: MountWatch,
        *,
        ticket_grace_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._gate = gate
        self._book = book
        self._watch = watch
        self._ticket_grace_s = ticket_grace_s
        self._now = now

    async def check(self, block_id: str, query: str, ticket: str) -> Asked:
        """See ``Gate.check``."""
        version = self._book.version
        try:
            return self._check(block_id, query, ticket)
        except NotFound:
            await self._watch.changed(version, MOUNT_WAIT_S)
            return self._check(block_id, query, ticket)

    async def check_target(self, target: BlockTarget, ticket: str) -> Asked:
        """See ``Gate.check_target``."""
        version = self._book.version
        try:
            return self._gate.check_target(target, ticket, now_s=self._now(), grace_s=self._grace_s)
        except NotFound:
            await self._watch.changed(version, MOUNT_WAIT_S)
            return self._gate.check_target(target, ticket, now_s=self._now(), grace_s=self._grace_s)

    @property
    def _grace_s(self) -> float:
        return 0.0 if self._watch.sees_master else self._ticket_grace_s

    def _check(self, block_id: str, query: str, ticket: str) -> Asked:
        return self._gate.check(block_id, query, ticket, now_s=self._now(), grace_s=self._grace_s)
