"""Which tier directories are in service. One that errs takes no new blocks; what is in it is read as long as that
works; when it is found healthy again (a file can be written, flushed and read back, and there is room) it returns by
itself. A directory that was removed or replaced loses its blocks at once and is scanned anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from forebay.errors import ConfigError
from forebay.runtime import logs
from forebay_worker.directory import TierDirectory
from forebay_worker.files import IoThreads, TierFailed
from forebay_worker.index import StoreIndex
from forebay_worker.observe import WorkerMetrics
from forebay_worker.restart import Restart
from forebay_worker.tiers import reopen

FAILED = "failed"
"""Why a directory is out of service."""

CHECK_PERIOD_S = 2.0
BACKOFF_MAX_S = 60.0
"""A directory that errs again soon after its return waits twice as long, up to this."""

CALM_S = 600.0
"""After this long without an error the waiting starts small again."""

RETURN_FREE_BYTES = 64 << 20
"""Room that a full file system must have before its directory returns (or all that the directory may still take)."""


@dataclass
class _State:
    """``out_until``: not looked at before; 0 in service. ``wait_s``: the next time out."""

    out_until: float = 0.0
    wait_s: float = CHECK_PERIOD_S
    last_error: float = float("-inf")
    is_gone: bool = False


class Health:
    """States of all tier directories. ``on_gone`` takes a removed directory's blocks out of the index."""

    def __init__(
        self,
        tiers: Sequence[TierDirectory],
        index: StoreIndex,
        threads: IoThreads,
        metrics: WorkerMetrics,
        restart: Restart,
        *,
        clock: Callable[[], float],
        on_gone: Callable[[int], Awaitable[None]],
    ) -> None:
        self._tiers = tiers
        self._index = index
        self._threads = threads
        self._metrics = metrics
        self._restart = restart
        self._clock = clock
        self._on_gone = on_gone
        self._states = [_State() for _ in tiers]
        self._leftovers: list[set[str]] = [set() for _ in tiers]
        self._boot_id = ""
        self._log = logs.get("forebay_worker.store")
        for number in range(len(tiers)):
            self._show(number)

    def started(self, boot_id: str) -> None:
        """This boot of the machine."""
        self._boot_id = boot_id

    def failed(self, number: int, error: TierFailed) -> None:
        """A directory erred. A single file that is missing or of the wrong length is the file's fault (whether the
        directory is still there is seen by ``check``)."""
        tier = self._tiers[number]
        self._metrics.tier_errors.add(1, tier.spec.tier.lower())
        name = error.details.get("errno")
        self._log.warning("tier_error", path=str(tier.spec.path), error=error.message, errno=name)
        if name not in {None, "ENOENT"}:
            self._retire(number, str(name))

    def remember(self, number: int, block_id: str) -> None:
        """A file could not be unlinked: it is tried again when the directory returns."""
        self._leftovers[number].add(block_id)

    def _retire(self, number: int, reason: str) -> None:
        state, now = self._states[number], self._clock()
        if state.out_until:
            return
        state.wait_s = min(state.wait_s * 2, BACKOFF_MAX_S) if now - state.last_error < CALM_S else CHECK_PERIOD_S
        state.last_error = now
        state.out_until = now + state.wait_s
        self._index.retire(number, FAILED)
        self._show(number)
        self._log.error(
            "tier_out_of_service",
            tier=self._tiers[number].spec.tier,
            path=str(self._tiers[number].spec.path),
            reason=reason,
            next_look_s=state.wait_s,
        )

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            await asyncio.sleep(CHECK_PERIOD_S)
            await self.check()

    async def check(self) -> None:
        """One look at all directories."""
        for number, state in enumerate(self._states):
            try:
                if not state.is_gone and not await self._threads.run(self._tiers[number].is_itself):
                    await self._gone(number)
                if state.out_until and self._clock() >= state.out_until:
                    await self._try_return(number)
            except (TierFailed, ConfigError) as e:
                if state.out_until:
                    self._still_out(number, e.message)
                else:
                    self._retire(number, e.message)

    async def _gone(self, number: int) -> None:
        state = self._states[number]
        state.is_gone = True
        self._retire(number, "the directory is not the one that was opened any more")
        state.out_until = self._clock()
        self._restart.expect(number)
        self._leftovers[number].clear()
        await self._on_gone(number)
        await self._threads.run(self._tiers[number].let_go)

    async def _try_return(self, number: int) -> None:
        tier, state = self._tiers[number], self._states[number]
        if state.is_gone:
            if not await self._threads.run(reopen, tier, self._boot_id):
                self._still_out(number, "its file system is not there")
                return
            state.is_gone = False
        await self._threads.run(tier.probe)
        spare = self._index.capacity(number) - self._index.used(number)
        if await self._threads.run(tier.free_bytes) < min(RETURN_FREE_BYTES, spare):
            self._still_out(number, "the file system is full")
            return
        for block_id in list(self._leftovers[number]):
            if not self._index.is_known(block_id, number):
                await self._threads.run(tier.remove_all, block_id)
            self._leftovers[number].discard(block_id)
        if self._restart.is_expected(number):
            await self._restart.scan_tier(number)
        state.out_until = 0.0
        self._index.return_to_service(number, FAILED)
        self._show(number)
        self._log.info("tier_back_in_service", tier=tier.spec.tier, path=str(tier.spec.path))

    def _still_out(self, number: int, reason: str) -> None:
        state = self._states[number]
        state.out_until = self._clock() + state.wait_s
        self._log.debug("tier_still_out", path=str(self._tiers[number].spec.path), reason=reason)

    def _show(self, number: int) -> None:
        in_service = not self._states[number].out_until
        self._metrics.tier_in_service.set(float(in_service), self._tiers[number].spec.tier.lower(), str(number))
