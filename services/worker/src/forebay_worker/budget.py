"""Limits toward the under stores: requests and bytes per second, of this worker and of each mount."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

BURST_S = 0.25
"""What was not used counts for so long."""

MOUNTS_MAX = 1024
"""Mounts whose use is remembered."""


class Bucket:
    """A token bucket that lends: whoever comes waits until the debt before him is paid, so nobody overtakes. Pure.

    ``rate`` per second; 0 is no limit.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free_at_s: float | None = None

    def take(self, count: float, now_s: float) -> float:
        """Takes ``count``; how long to wait before using them."""
        if not self.rate:
            return 0.0
        free_at_s = now_s - BURST_S if self._free_at_s is None else max(self._free_at_s, now_s - BURST_S)
        self._free_at_s = free_at_s + count / self.rate
        return max(0.0, free_at_s - now_s)


@dataclass(frozen=True)
class Rates:
    """Requests and bytes per second; 0 is no limit."""

    requests: float = 0.0
    bytes: float = 0.0


class Budget:
    """What this worker may ask of under stores: all together, and each mount."""

    def __init__(
        self,
        everything: Rates,
        each_mount: Rates,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._each_mount = each_mount
        self._all = (Bucket(everything.requests), Bucket(everything.bytes))
        self._mounts: dict[str, tuple[Bucket, Bucket]] = {}
        self._clock = clock
        self._sleep = sleep

    async def admit(self, mount_id: str, size: int) -> None:
        """Waits until one request for ``size`` bytes may go out."""
        mine = self._mounts.get(mount_id)
        if mine is None:
            while len(self._mounts) >= MOUNTS_MAX:
                del self._mounts[next(iter(self._mounts))]
            mine = (Bucket(self._each_mount.requests), Bucket(self._each_mount.bytes))
            self._mounts[mount_id] = mine
        now_s = (self._clock or asyncio.get_running_loop().time)()
        waits = [pair[0].take(1, now_s) for pair in (self._all, mine)]
        waits += [pair[1].take(size, now_s) for pair in (self._all, mine)]
        if max(waits) > 0:
            await self._sleep(max(waits))
