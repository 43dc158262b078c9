"""What operators and mounts say about keeping: settings that change while the worker runs, rules of mounts, blocks that
leave by themselves or by command.

``tuning`` checks and ``policies`` decide; this applies it to the running parts and evicts what they name.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from forebay.contracts import FreeReply, FreeRequest, Mount, SettingsReply, identity
from forebay.errors import Detail, InvalidRequest, NotFound, TooLarge
from forebay.runtime import logs
from forebay.ufs import UfsDir, UfsFile
from forebay_worker.access import Asked
from forebay_worker.block import Block, State
from forebay_worker.mounts import MountBook, Mounted
from forebay_worker.policies import POLICIES
from forebay_worker.policies.governed import Governed
from forebay_worker.policies.ledger import Ledger, MountRules
from forebay_worker.policies.versions import Versions
from forebay_worker.settings import smallest
from forebay_worker.store import Store
from forebay_worker.tuning import Tuning, patched
from forebay_worker.under_stores import UfsPool

SWEEP_PERIOD_S = 1.0
"""How often a step of the sweep for blocks past their time is made."""

SMALL_BLOCK = 256 << 10
"""What a tier's room is divided by for the number of blocks that versions are remembered of."""

FREE_BATCH = 512
"""Blocks that a free lets go of at a time."""

FREE_LOOK = 8192
"""Blocks that a free looks at until others have their turn."""

DIRECTORIES_MAX = 100_000
"""Directories that a free by path walks through."""


@dataclass
class _Freed:
    blocks: int = 0
    bytes: int = 0
    busy: int = 0
    pinned: int = 0


class Keeping:
    """``on_change`` is told of each new tuning, the first included. ``policies`` are those of the tiers, in order."""

    def __init__(
        self,
        store: Store,
        policies: list[Governed],
        ledger: Ledger,
        book: MountBook,
        pool: UfsPool,
        tuning: Tuning,
        on_change: Callable[[Tuning], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._policies = policies
        self._ledger = ledger
        self._book = book
        self._pool = pool
        self._on_change = on_change
        self._clock = clock
        self._versions = Versions(sum(tier.spec.capacity_bytes for tier in store.tiers) // SMALL_BLOCK)
        self._log = logs.get("forebay_worker.keeping")
        self.tuning = tuning
        now_s = time.time()
        self._since_s = {f.name: now_s for f in fields(tuning)}
        self._apply()

    # -- settings

    def settings(self) -> SettingsReply:
        """What can be changed, and since when it is as it is."""
        return SettingsReply(settings=self.tuning.shown(), since_s=dict(self._since_s))

    def status(self) -> dict[str, dict[str, Detail]]:
        """The same for the status page, flat."""
        flat: dict[str, Detail] = {}
        for name, value in self.tuning.shown().items():
            flat |= _flat(name, value)
        return {"running_settings": flat, "running_settings_since_s": dict(self._since_s)}

    def change(self, body: object) -> SettingsReply:
        """Takes a change as a whole, at once.

        Raises:
            InvalidRequest: nothing of it was taken; names the field and the reason.
        """
        new = patched(self.tuning, body, smallest(tier.spec for tier in self._store.tiers))
        changed = [f.name for f in fields(new) if getattr(new, f.name) != getattr(self.tuning, f.name)]
        self.tuning = new
        self._since_s |= dict.fromkeys(changed, time.time())
        if changed:
            self._apply()
            shown = new.shown()
            self._log.info("settings_changed", **{name: str(shown[name]) for name in changed})
        return self.settings()

    def _apply(self) -> None:
        tuning = self.tuning
        for number, (tier, policy) in enumerate(zip(self._store.tiers, self._policies, strict=True)):
            if policy.name != tuning.policy:
                policy.change(POLICIES[tuning.policy](tier.spec.capacity_bytes))
            policy.set_idle_ttl(tuning.idle_ttl_s)
            self._store.index.set_rules(number, tuning.rules(tier.spec.tier))
        self.mounts_changed()
        self._on_change(tuning)
        self._store.press()

    def mounts_changed(self) -> None:
        """The mount table is another one."""
        if self._book.reply is None:
            return
        mounts = self._book.reply.mounts
        self._ledger.set_rules({m.mount_id: self.tuning.mount_rules(m.mount_id, said_by(m)) for m in mounts})
        for policy in self._policies:
            policy.rules_changed()

    # -- what leaves by itself

    def missed(self, asked: Asked) -> None:
        """A block is asked for that is not here: what holds the same piece of an older version goes first."""
        target = asked.target
        older = self._versions.seen(target.mount_id, target.key, target.index, asked.block_id)
        if older is not None:
            for policy in self._policies:
                policy.goes_first(older)

    async def run(self) -> None:
        """Sweeps for ever."""
        while True:
            await asyncio.sleep(SWEEP_PERIOD_S)
            await self.sweep()

    async def sweep(self) -> None:
        """One step around the blocks of each tier."""
        index = self._store.index
        for policy in self._policies:
            causes: dict[str, list[Block]] = {}
            for block_id, cause in policy.sweep(self._clock(), busy=index.is_busy):
                if (block := index.get(block_id)) is not None:
                    causes.setdefault(cause, []).append(block)
            for cause, blocks in causes.items():
                await self._store.evict(blocks, cause)

    # -- what leaves by command

    async def free(self, request: FreeRequest) -> FreeReply:
        """Lets go of blocks.

        Raises:
            InvalidRequest: nothing says which. NotFound: no such mount or path. TooLarge: too many directories.
            ForebayError: what kept the files below a path from being listed.
        """
        if request.mount_id is None and request.path is None and request.idle_s is None:
            raise InvalidRequest("want mount_id, path or idle_s", field="mount_id", reason="nothing says what to free")
        if request.mount_id is not None:
            self._book.find(request.mount_id)
        freed = _Freed()
        if request.path is None:
            await self._free_held(freed, request, None if request.mount_id is None else {request.mount_id})
        else:
            await self._free_below(freed, request, request.path)
        self._log.info("freed", blocks=freed.blocks, bytes=freed.bytes, busy=freed.busy, pinned=freed.pinned)
        return FreeReply(
            freed_blocks=freed.blocks, freed_bytes=freed.bytes, busy_blocks=freed.busy, pinned_blocks=freed.pinned
        )

    async def _free_held(self, freed: _Freed, request: FreeRequest, mounts: set[str] | None) -> None:
        """All blocks of some mounts, or of all."""
        for policy in self._policies:
            batch: list[str] = []
            for slot in range(policy.slots.capacity):
                slots = policy.slots  # another policy may have taken over at an await
                if slot >= slots.capacity:
                    break
                if slots.is_taken(slot) and (mounts is None or slots.dataset_name(slot) in mounts):
                    batch.append(slots.block(slot))
                if len(batch) == FREE_BATCH or slot % FREE_LOOK == 0:
                    await self._free(freed, request, batch)
                    batch = []
            await self._free(freed, request, batch)

    async def _free_below(self, freed: _Freed, request: FreeRequest, path: str) -> None:
        whole, inside = self._book.below(path)
        if request.mount_id is not None:
            whole = [m for m in whole if m.mount.mount_id == request.mount_id]
            inside = inside if inside is not None and inside[0].mount.mount_id == request.mount_id else None
        if not whole and inside is None:
            raise NotFound("no mount holds this path", path=path)
        if whole:
            await self._free_held(freed, request, {mounted.mount.mount_id for mounted in whole})
        if inside is not None:
            async for file in self._files(*inside):
                await self._free(freed, request, dict.fromkeys(self._blocks_of(inside[0], file)))
            for policy in self._policies:
                await self._free(freed, request, policy.first_of(inside[0].mount.mount_id))

    def _blocks_of(self, mounted: Mounted, file: UfsFile) -> Iterator[str]:
        """Those of the version that is there now, and of the one that was asked for here last."""
        mount_id, count = mounted.mount.mount_id, 0
        for block_id in block_ids(mounted, file):
            yield block_id
            count += 1
        for index in itertools.count():
            known = self._versions.known(mount_id, file.key, index)
            if known is not None:
                yield known
            elif index >= count:
                return

    async def _files(self, mounted: Mounted, key: str) -> AsyncIterator[UfsFile]:
        ufs = await self._pool.get(mounted)
        entry = await ufs.stat(key)
        if isinstance(entry, UfsFile):
            yield entry
            return
        pending, seen = [key], 0
        while pending:
            directory, token = pending.pop(), None
            seen += 1
            while True:
                page = await ufs.list_page(directory, token=token)
                for found in page.entries:
                    if isinstance(found, UfsDir):
                        pending.append(found.key)
                    else:
                        yield found
                token = page.next_token
                if token is None:
                    break
            if seen + len(pending) > DIRECTORIES_MAX:
                raise TooLarge(f"more than {DIRECTORIES_MAX} directories lie below", limit=DIRECTORIES_MAX)

    async def _free(self, freed: _Freed, request: FreeRequest, block_ids: Iterable[str]) -> None:
        index, going = self._store.index, []
        for block_id in block_ids:
            block = index.get(block_id)
            if block is None or not self._is_idle(block, request.idle_s):
                continue
            if not request.force and self._ledger.of(block.dataset).is_pinned:
                freed.pinned += 1
            elif not block.is_evictable:
                freed.busy += 1
                self._policies[block.tier].goes_first(block_id)
            else:
                going.append(block)
        freed.blocks += len(going)
        freed.bytes += sum(block.length for block in going)
        await self._store.evict(going, "freed")
        await asyncio.sleep(0)  # others' turn

    def _is_idle(self, block: Block, idle_s: float | None) -> bool:
        if block.state is State.LEAVING:
            return False
        slots = self._policies[block.tier].slots
        slot = slots.get(block.block_id)
        return slot is not None and (idle_s is None or self._clock() - slots.read_at_s(slot) >= idle_s)


def said_by(mount: Mount) -> MountRules:
    """The rules in a mount's own record."""
    return MountRules(mount.pin, mount.ttl_s, mount.quota_bytes)


def block_ids(mounted: Mounted, file: UfsFile) -> Iterable[str]:
    """Ids of the blocks of a file as it is now."""
    mount = mounted.mount
    version = mounted.uri.version_id(mount.options, file.key, file.fingerprint)
    for index in range(identity.block_count(file.size, mount.block_size)):
        yield identity.block_id(version, mount.block_size, index)


def _flat(name: str, value: Any) -> dict[str, Detail]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: part for inner, held in value.items() for key, part in _flat(f"{name}.{inner}", held).items()}
