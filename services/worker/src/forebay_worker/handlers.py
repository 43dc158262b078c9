"""The worker's HTTP face: ``GET /v1/blocks/{block_id}`` and ``POST /v1/blocks:touch``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from forebay.contracts import TouchReply, TouchRequest
from forebay.contracts.blocks import (
    BLOCKS_PATH,
    COPY_HEADER,
    CRC_HEADER,
    HOP_HEADER,
    OFFERED_HEADER,
    ONLY_IF_CACHED,
    READ_TYPE_HEADER,
    SERVING_WEIGHT_HEADER,
    SOURCE_HEADER,
    TICKET_HEADER,
    TOUCH_PATH,
    ByteRange,
    format_content_range,
    format_crcs,
    parse_copy,
    parse_range,
    parse_read_type,
)
from forebay.contracts.blocks import Source as SourceName
from forebay.contracts.records import ReadType
from forebay.errors import ForebayError, InvalidRequest, Overloaded
from forebay.runtime import logs
from forebay.transport.app import read_record, record_response
from forebay.transport.openapi import operation
from forebay_worker.access import Asked
from forebay_worker.block import Block
from forebay_worker.entrance import Entrance
from forebay_worker.index import StoreIndex
from forebay_worker.observe import WorkerMetrics
from forebay_worker.origins import Origins
from forebay_worker.reads import Read, Reads
from forebay_worker.routing import ReadOptions
from forebay_worker.sources import closing

TARGET = {
    "mount_id": "the mount",
    "key": "the file, relative to the mount's root",
    "size": "its size in bytes",
    "fingerprint": "its version",
    "index": "the block's number in it, from 0",
}
ASKING = {
    TICKET_HEADER: "the right to read",
    READ_TYPE_HEADER: "CACHE, CACHE_PROMOTE or NO_CACHE",
    "range": "bytes=FIRST-LAST of the block",
    "cache-control": f"{ONLY_IF_CACHED}: 504 if it is not here",
}


@dataclass(frozen=True)
class HandlerOptions:
    """Settings of the data route."""

    read_type: ReadType
    reads_max: int


class BlockRoutes:
    """Both routes over the parts of one worker. ``weight`` is the serving weight by reads in flight;
    ``on_asked`` hears of every block that is asked for, ``on_touched`` of those that were read past this worker."""

    def __init__(
        self,
        entrance: Entrance,
        origins: Origins,
        reads: Reads,
        index: StoreIndex,
        metrics: WorkerMetrics,
        options: HandlerOptions,
        *,
        weight: Callable[[int], float],
    ) -> None:
        self._entrance = entrance
        self._origins = origins
        self._reads = reads
        self._index = index
        self._metrics = metrics
        self._options = options
        self._weight = weight
        self.on_asked: Callable[[Asked], None] = lambda _: None
        self.on_touched: Callable[[str], None] = lambda _: None
        self._log = logs.get("forebay_worker.handlers")
        self.in_flight = 0
        self.read_type = options.read_type
        """Where a request says nothing; may change at any time."""

    def add_to(self, app: web.Application) -> None:
        """Registers the routes."""
        app.router.add_get(f"{BLOCKS_PATH}/{{block_id}}", self.read, allow_head=False)
        app.router.add_post(TOUCH_PATH, self.touch)

    @operation(media="application/octet-stream", statuses=(200, 206), query=TARGET, headers=ASKING)
    async def read(self, request: web.Request) -> web.StreamResponse:
        """A range of a block."""
        if self.in_flight >= self._options.reads_max:
            raise Overloaded("this worker answers as many reads as it may", limit=self._options.reads_max)
        self.in_flight += 1
        try:
            asked = await self._entrance.check(
                request.match_info["block_id"],
                request.rel_url.raw_query_string,
                request.headers.get(TICKET_HEADER, ""),
            )
            self.on_asked(asked)
            part = parse_range(request.headers.get("range"), asked.length)
            ready = self._reads.at_once(asked, part)
            if ready is not None:
                return await self._send_mapped(request, asked, part, *ready)
            return await self._send_body(request, self._read_of(request, asked, part))
        finally:
            self.in_flight -= 1

    @operation(takes=TouchRequest, gives=TouchReply)
    async def touch(self, request: web.Request) -> web.Response:
        """Reads that happened past this worker."""
        report = await read_record(request, TouchRequest)
        known = 0
        for touch in report.touches:
            self.on_touched(touch.block_id)
            if self._index.read(touch.block_id, time.monotonic()):
                known += 1
                self._metrics.hits.add(touch.opens, "local")
        unknown = len(report.touches) - known
        self._metrics.touches.add(known, "yes")
        self._metrics.touches.add(unknown, "no")
        return record_response(TouchReply(known=known, unknown=unknown))

    # -- the request

    def _read_of(self, request: web.Request, asked: Asked, part: ByteRange) -> Read:
        headers = request.headers
        hop = headers.get(HOP_HEADER)
        if hop not in {None, "1"}:
            raise InvalidRequest("want 1 or nothing", header=HOP_HEADER)
        options = ReadOptions(
            read_type=parse_read_type(headers.get(READ_TYPE_HEADER), self.read_type),
            is_hop=hop is not None,
            only_if_cached=headers.get("cache-control", "").strip().lower() == ONLY_IF_CACHED,
            is_spare=parse_copy(headers.get(COPY_HEADER)),
        )
        origin = self._origins.of(asked, part, options, headers.get(TICKET_HEADER, ""))
        return Read(
            asked,
            part,
            options,
            origin.source,
            origin.has_home_elsewhere,
            keeps=origin.keeps,
            overflow=origin.overflow,
        )

    # -- the answer

    async def _send_mapped(
        self, request: web.Request, asked: Asked, part: ByteRange, block: Block, view: memoryview
    ) -> web.StreamResponse:
        self._index.lease(block)
        try:
            response = self._head(request, asked, part, "mem")
            await response.prepare(request)
            await response.write(view)
            await response.write_eof()
            self._metrics.served.add(part.length, "mem")
            return response
        finally:
            self._index.release(block)

    async def _send_body(self, request: web.Request, read: Read) -> web.StreamResponse:
        body = await self._reads.open(read)
        async with closing(body.rest) as rest:
            response = self._head(request, read.asked, read.part, body.source)
            if read.offered_to is not None:
                response.headers[OFFERED_HEADER] = read.offered_to
            await response.prepare(request)
            await response.write(body.first)
            try:
                async for piece in rest:
                    await response.write(piece)
            except ForebayError as e:
                self._log.warning("read_broken", block_id=read.asked.block_id, code=e.code, error=e.message)
                raise  # the reply has begun: the stream is reset
            await response.write_eof()
            return response

    def _head(self, request: web.Request, asked: Asked, part: ByteRange, source: SourceName) -> web.StreamResponse:
        self._metrics.reads.add(1, source)
        if source in {"mem", "ssd"}:
            self._metrics.hits.add(1, source)
        headers = {
            "content-type": "application/octet-stream",
            "content-length": str(part.length),
            "content-range": format_content_range(part, asked.length),
            SOURCE_HEADER: source,
            SERVING_WEIGHT_HEADER: str(self._weight(self.in_flight - 1)),
        }
        if HOP_HEADER in request.headers and (crcs := self._crcs(asked, part)):
            headers[CRC_HEADER] = format_crcs(crcs)
        return web.StreamResponse(status=206 if "range" in request.headers else 200, headers=headers)

    def _crcs(self, asked: Asked, part: ByteRange) -> tuple[int, ...]:
        """Checksums of the answer, if it is made of whole extents of a block whose sums are known."""
        extents = asked.geometry.touched(part.start, part.stop)
        whole = (asked.geometry.span(extents[0])[0], asked.geometry.span(extents[-1])[1]) == (part.start, part.stop)
        return self._reads.crcs(asked.block_id)[extents[0] : extents[-1] + 1] if whole else ()
