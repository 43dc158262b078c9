"""Fetches what hints name, a few blocks at a time, and gives up what they do not name any more."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from itertools import islice

from aiohttp import web

from forebay.contracts import HintReply, HintRequest
from forebay.contracts.blocks import HINT_PATH, TICKET_HEADER, ByteRange, block_query
from forebay.errors import ForebayError
from forebay.runtime import logs
from forebay.telemetry import Metrics
from forebay.transport.app import read_record, record_response
from forebay.transport.openapi import operation
from forebay_worker.access import Asked
from forebay_worker.entrance import Entrance
from forebay_worker.fill import Filler, Spawner
from forebay_worker.hints import HintedBlock, Hints
from forebay_worker.origins import Origins
from forebay_worker.routing import ReadOptions
from forebay_worker.store import Store

FETCHES_MAX = 3
"""Blocks that are fetched at once; each takes as many streams as its source has."""

LOOK_S = 0.2
"""How often windows are looked at without anything having moved: room may have come."""

AGAIN_S = 1.0
"""How long a block that could not be fetched waits."""

ROOM_S = 0.02
"""How long a block that found no room waits until it is tried again."""

ROOM_BLOCKS = 2 * FETCHES_MAX
"""Blocks that room is made for before they are asked for."""

KNOWN_MAX = 400_000
CHECKS_AT_ONCE = 200
"""Blocks of a hint that are checked before others get their turn."""


class Prefetch:
    """The route ``POST /v1/blocks:hint`` and what it sets going."""

    def __init__(
        self,
        hints: Hints,
        entrance: Entrance,
        origins: Origins,
        store: Store,
        filler: Filler,
        spawner: Spawner,
        metrics: Metrics,
    ) -> None:
        self.hints = hints
        self._entrance, self._origins, self._store, self._filler = entrance, origins, store, filler
        self._spawner = spawner
        self._known: OrderedDict[str, tuple[Asked, str]] = OrderedDict()
        self._tasks: dict[str, asyncio.Future[None]] = {}
        self._later: dict[str, float] = {}
        self._moved = asyncio.Event()
        self._log = logs.get("forebay_worker.prefetch")
        self._ended = metrics.counter("forebay_worker_prefetches_total", "Blocks fetched by hints", ("outcome",))
        metrics.observed("forebay_worker_hint_streams", "Readers that said what they will read", lambda: len(hints))
        metrics.observed("forebay_worker_prefetches", "Blocks being fetched by hints", lambda: len(self._tasks))

    def add_to(self, app: web.Application) -> None:
        """Registers the route."""
        app.router.add_post(HINT_PATH, self.hint)

    @operation(takes=HintRequest, gives=HintReply)
    async def hint(self, request: web.Request) -> web.Response:
        """The order in which a reader will read blocks of this worker."""
        said = await read_record(request, HintRequest)
        ticket, blocks = request.headers.get(TICKET_HEADER, ""), list[HintedBlock]()
        for number, block in enumerate(said.blocks):
            asked = await self._entrance.check(block.block_id, block_query(block.target), ticket)
            self._known[block.block_id] = asked, ticket
            self._known.move_to_end(block.block_id)
            blocks.append(HintedBlock(block.block_id, asked.length))
            if number % CHECKS_AT_ONCE == CHECKS_AT_ONCE - 1:
                await asyncio.sleep(0)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        count = self.hints.take(
            said.stream, said.epoch, blocks, time.monotonic(), first=said.first, is_next=said.is_next
        )
        self._moved.set()
        return record_response(HintReply(blocks=count, budget_bytes=self.hints.budget_bytes))

    def asked(self, block_id: str) -> None:
        """A block is read here, or a report says that it was read elsewhere."""
        if self.hints.read(block_id, time.monotonic()):
            self._moved.set()

    async def run(self) -> None:
        """Looks at the windows whenever something moved. For ever."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._moved.wait(), self._pause_s())
                self._moved.clear()
                self._look()
        finally:
            for wish in self._tasks.values():
                wish.cancel()

    def _pause_s(self) -> float | None:
        if not len(self.hints):
            return None
        return ROOM_S if self._later else LOOK_S

    def _look(self) -> None:
        now = time.monotonic()
        self._later = {b: until for b, until in self._later.items() if until > now}
        self.hints.passed(now)
        wanted, soon = self.hints.wanted(), self.hints.soon()
        for block_id, wish in self._tasks.items():
            if block_id not in soon and not self.hints.is_read(block_id):
                wish.cancel()
        for block in wanted:
            if len(self._tasks) >= FETCHES_MAX:
                break
            block_id = block.block_id
            if block_id in self._tasks or self._is_whole(block_id) or block_id in self._later:
                continue
            if block_id in self._known:
                self._begin(block_id)
        self._store.ask_room(sum(block.size for block in self._lacking(wanted)))

    def _lacking(self, wanted: list[HintedBlock]) -> list[HintedBlock]:
        """Blocks that are next to be fetched and have no room yet."""
        missing = (
            block for block in wanted if block.block_id in self._known and not self.hints.is_here(block.block_id)
        )
        return list(islice(missing, ROOM_BLOCKS))

    def _is_whole(self, block_id: str) -> bool:
        """Whether nothing is left to fetch: it may still have to be sealed."""
        block = self._store.index.get(block_id)
        return block is not None and not block.extents.missing(range(block.extents.geometry.count))

    def _begin(self, block_id: str) -> None:
        wish = self._tasks[block_id] = asyncio.get_running_loop().create_future()

        async def fetch() -> None:
            try:
                await self._until(block_id, wish)
            finally:
                self._tasks.pop(block_id, None)
                self._moved.set()

        self._spawner.spawn("prefetch", fetch())

    async def _until(self, block_id: str, wish: asyncio.Future[None]) -> None:
        """Fetches until it is done or the wish is cancelled."""
        work = asyncio.ensure_future(self._fetch(block_id))
        try:
            await asyncio.wait((work, wish), return_when=asyncio.FIRST_COMPLETED)
        finally:
            wish.cancel()
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work

    async def _fetch(self, block_id: str) -> None:
        outcome = "cancelled"
        try:
            outcome = await self._brought(block_id)
        except ForebayError as e:
            outcome = e.code
            self._later[block_id] = time.monotonic() + AGAIN_S
            self._log.info("prefetch_failed", block_id=block_id, code=e.code, error=e.message)
        finally:
            self._ended.add(1, outcome)

    async def _brought(self, block_id: str) -> str:
        asked, ticket = self._known[block_id]
        options = ReadOptions(read_type="CACHE", is_hop=False, only_if_cached=False, is_spare=False)
        origin = self._origins.of(asked, ByteRange(0, asked.length), options, ticket)
        await self._store.make_ready(block_id)
        block = await self._filler.admit(asked, origin.source)
        if block is None:
            self._later[block_id] = time.monotonic() + ROOM_S  # room is being made; the block stays wanted
            return "no_room"
        filling = self._filler.get(block)
        if filling is None:
            return "was_here"
        extents = block.extents.missing(range(block.extents.geometry.count))
        reader = self._filler.want(filling, extents)
        try:
            for extent in extents:
                await self._filler.wait(filling, reader, extent)
        finally:
            self._filler.unwant(filling, reader)
        return "ok"
