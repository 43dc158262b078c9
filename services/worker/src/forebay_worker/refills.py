"""Fills blocks again that had rotted and that nobody is reading now, as far as it is known what they are blocks of."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from forebay.contracts import BlockTarget
from forebay.contracts.blocks import ByteRange
from forebay.errors import ForebayError
from forebay.runtime import logs
from forebay_worker.access import derive
from forebay_worker.fill import Filler
from forebay_worker.mounts import MountBook, Mounted
from forebay_worker.observe import WorkerMetrics
from forebay_worker.origins import Origins
from forebay_worker.routing import ReadOptions

WAITING_MAX = 1024
"""Blocks that wait for it; those beyond are filled when they are read."""

OPTIONS = ReadOptions(read_type="CACHE", is_hop=True)
"""This worker has had them: it asks former homes and the under store, never another home."""


class Refills:
    """One block after the other. ``target_of`` says what a block is, if a read told; ``ticket_for`` is shown to other
    workers."""

    def __init__(
        self,
        target_of: Callable[[str], tuple[Mounted, BlockTarget] | None],
        ticket_for: Callable[[Mounted], str],
        book: MountBook,
        origins: Origins,
        filler: Filler,
        metrics: WorkerMetrics,
    ) -> None:
        self._target_of, self._ticket_for = target_of, ticket_for
        self._book, self._origins, self._filler = book, origins, filler
        self._metrics = metrics
        self._waiting: asyncio.Queue[str] = asyncio.Queue(WAITING_MAX)
        self._log = logs.get("forebay_worker.refills")

    def want(self, block_id: str) -> None:
        """The block is gone and shall come back."""
        if self._waiting.full():
            self._metrics.refills.add(1, "overloaded")
        else:
            self._waiting.put_nowait(block_id)

    async def run(self) -> None:
        """For ever."""
        while True:
            block_id = await self._waiting.get()
            self._metrics.refills.add(1, await self._refill(block_id))

    async def _refill(self, block_id: str) -> str:
        known = self._target_of(block_id)
        if known is None:
            return "unknown"
        target = known[1]
        try:
            mounted = self._book.find(target.mount_id)
            asked = derive(block_id, target, mounted, expires_at_s=math.inf, version=self._book.version)
            origin = self._origins.of(asked, ByteRange(0, 1), OPTIONS, self._ticket_for(mounted))
            filling = await self._filler.begin(asked, origin.source)
            if filling is not None:
                await self._filler.finished(filling)
        except ForebayError as e:
            self._log.info("not_filled_again", block_id=block_id, code=e.code, error=e.message)
            return e.code
        return "ok"
