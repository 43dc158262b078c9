"""``POST /v1/blocks:holds``: what this worker really holds, by its files and not by its index.

A load is told as succeeded by these answers alone, so each block's file is looked at: it has to be there, under its
final name, with its length. With ``verify`` its bytes are read and compared with their checksums.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

from aiohttp import web

from forebay.contracts.blocks import TICKET_HEADER
from forebay.contracts.loads import HOLDS_PATH, HoldsReply, HoldsRequest
from forebay.contracts.tickets import KeyRing, verify
from forebay.transport.app import read_record, record_response
from forebay.transport.openapi import operation
from forebay_worker.block import Block, State
from forebay_worker.directory import TierDirectory, name_of
from forebay_worker.files import Corrupt, TierFailed
from forebay_worker.scrub import Reader
from forebay_worker.store import Store

VERIFIES_MAX = 2
"""Blocks that are read at once to be verified."""


class HoldingRoutes:
    """The route. Any genuine ticket of the cluster may ask: block ids say nothing to who does not know them."""

    def __init__(self, store: Store, ring: KeyRing, cluster_id: str) -> None:
        self._store = store
        self._ring = ring
        self._cluster_id = cluster_id
        self._verifies = asyncio.Semaphore(VERIFIES_MAX)

    def add_to(self, app: web.Application) -> None:
        """Registers it."""
        app.router.add_post(HOLDS_PATH, self.holds)

    @operation(takes=HoldsRequest, gives=HoldsReply, headers={TICKET_HEADER: "a ticket of the cluster"})
    async def holds(self, request: web.Request) -> web.Response:
        """Which of these blocks are complete here."""
        verify(self._ring, request.headers.get(TICKET_HEADER, ""), cluster=self._cluster_id, now_s=time.time())
        return record_response(await self.answer(await read_record(request, HoldsRequest)))

    async def answer(self, asked: HoldsRequest) -> HoldsReply:
        """See ``HoldsReply``."""
        sealed, filling = list[Block](), list[str]()
        for block_id in asked.block_ids:
            await self._store.make_ready(block_id)
            block = self._store.index.get(block_id)
            if block is not None and block.state is State.SEALED:
                sealed.append(block)
            elif block is not None and block.state in (State.FILLING, State.SEALING):
                filling.append(block_id)
        there = await self._there(sealed)
        verdicts = await self._verified(there) if asked.verify else {block.block_id: True for block in there}
        complete = tuple(name for name, is_sound in verdicts.items() if is_sound)
        corrupt = sorted(name for name, is_sound in verdicts.items() if is_sound is False)
        return HoldsReply(complete=complete, filling=tuple(filling), corrupt=tuple(corrupt))

    async def _there(self, blocks: Sequence[Block]) -> list[Block]:
        """Those whose files are there (or moved to another tier meanwhile); the others are dropped from the index as
        well."""
        index, places = self._store.index, [block.tier for block in blocks]
        looked = [(self._store.tiers[at], b.block_id, b.length) for at, b in zip(places, blocks, strict=True)]
        found = await self._store.threads.run(_look, looked)
        for at, block, is_there in zip(places, blocks, found, strict=True):
            if not is_there and index.is_at(block, at):
                await self._store.discard(block)
        return [block for block in blocks if index.get(block.block_id) is block]

    async def _verified(self, blocks: Sequence[Block]) -> dict[str, bool | None]:
        async def check(block: Block) -> bool | None:
            async with self._verifies:
                return await self._is_sound(block)

        async with asyncio.TaskGroup() as group:
            tasks = {block.block_id: group.create_task(check(block)) for block in blocks}
        return {name: task.result() for name, task in tasks.items()}

    async def _is_sound(self, block: Block) -> bool | None:
        """``None`` if it left meanwhile."""
        store = self._store
        while store.index.is_at(block, at := block.tier):
            try:
                tier = store.tiers[at]
                reader = await store.threads.run(Reader, tier, block.block_id, block.length, block.crcs)
                for extent in range(reader.geometry.count):
                    await store.threads.run(reader.check, extent)
                return True
            except TierFailed as e:
                if not store.index.is_at(block, at):
                    continue  # it left, or moved
                if isinstance(e, Corrupt):
                    await store.drop_rotten(block, e, found_by="load")
                else:
                    await store.discard(block)
                return False
        return None


def _look(wanted: Sequence[tuple[TierDirectory, str, int]]) -> list[bool]:
    """On a thread: whether each file is there with its length."""
    found = []
    for tier, block_id, length in wanted:
        try:
            status = os.stat(name_of(block_id, "blk"), dir_fd=tier.root_fd, follow_symlinks=False)
            found.append(status.st_size == length)
        except OSError:
            found.append(False)
    return found
