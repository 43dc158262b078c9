"""Reply buffers for bytes that come from elsewhere: as many as reads may be under way, each of one read's size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

KEPT_MAX = 16
"""Buffers kept for the next read; more exist only while they are in use."""


class Buffers:
    """At most ``limit`` buffers of ``size`` bytes are in use; who comes later waits."""

    def __init__(self, limit: int, size: int) -> None:
        self._size = size
        self._room = asyncio.Semaphore(limit)
        self._kept: list[bytearray] = []
        self.used = 0

    @asynccontextmanager
    async def lend(self, length: int) -> AsyncIterator[memoryview]:
        """``length`` bytes of a buffer. After an error it is not used again: a cancelled read of a disk may still be
        writing into it from its thread."""
        async with self._room:
            self.used += 1
            buffer = self._kept.pop() if self._kept else bytearray(self._size)
            try:
                yield memoryview(buffer)[:length]
                if len(self._kept) < KEPT_MAX:
                    self._kept.append(buffer)
            finally:
                self.used -= 1
