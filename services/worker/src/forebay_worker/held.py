"""Unlinked files that somebody still has open: their bytes are used until the last one closes.

The worker keeps a descriptor of its own for each and asks for a write lease now and then: it is only given to the sole
user of a file, and it sees readers that went past us (short circuit, passthrough).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

from forebay_worker.block import Block
from forebay_worker.directory import is_open_elsewhere
from forebay_worker.files import IoThreads

PROBE_PERIOD_S = 0.5
HELD_MAX = 4096
"""Descriptors kept for this; files beyond it count as free at once."""


class HeldFiles:
    """Owns one descriptor per held block. ``on_free`` is told when a file's space is free."""

    def __init__(self, threads: IoThreads, on_free: Callable[[Block], None]) -> None:
        self._threads = threads
        self._on_free = on_free
        self._held: dict[Block, int] = {}

    def hold(self, block: Block, fd: int) -> bool:
        """Takes the descriptor of an unlinked file that is open elsewhere; whether there was room for it."""
        if len(self._held) >= HELD_MAX:
            os.close(fd)
            return False
        self._held[block] = fd
        return True

    async def run(self) -> None:
        """Probes for ever."""
        while True:
            await asyncio.sleep(PROBE_PERIOD_S)
            await self.probe()

    async def probe(self) -> None:
        """One look at all of them."""
        held = dict(self._held)
        if held:
            for block in await self._threads.run(_free, held.items()):
                os.close(self._held.pop(block))
                self._on_free(block)

    def close(self) -> None:
        """Lets go of all."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def __len__(self) -> int:
        return len(self._held)


def _free(held: Iterable[tuple[Block, int]]) -> list[Block]:
    return [block for block, fd in held if not is_open_elsewhere(fd)]
