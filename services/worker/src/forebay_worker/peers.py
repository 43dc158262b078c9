"""Reading a block through its home: extent by extent, checked, and past it to the under store when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import google_crc32c

from forebay.contracts.blocks import (
    CRC_HEADER,
    HOP_HEADER,
    READ_TYPE_HEADER,
    TICKET_HEADER,
    ByteRange,
    format_range,
    parse_content_range,
    parse_crcs,
)
from forebay.contracts.blocks import Source as SourceName
from forebay.contracts.records import ReadType
from forebay.errors import DeadlineExceeded, NotReady, Overloaded, PeerError, PeerMisbehaved
from forebay.runtime import Deadline
from forebay_worker.extents import Geometry
from forebay_worker.sources import UfsSource, closing

PEER_TIMEOUT_S = 10.0
"""One extent from the home; then the under store is asked instead."""

BUFFERS_MAX = 32
"""Extents from homes that one worker holds in memory at the same time (4 MiB each)."""


class BlockReply(Protocol):
    """Head and length of a bulk answer; ``transport.DataReply`` is one."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Lower-case names."""

    @property
    def length(self) -> int:
        """Bytes of the body."""


class BlockClient(Protocol):
    """The part of ``transport.HttpClient`` that reads blocks."""

    async def read_into(
        self, peer: str, path: str, buffer: memoryview, *, deadline: Deadline, headers: Mapping[str, str] | None = None
    ) -> BlockReply:
        """The body into ``buffer``; an error answer is raised."""


@dataclass(frozen=True)
class HomeCall:
    """How the home is asked for one block."""

    address: str
    path: str
    ticket: str
    read_type: ReadType


class HomeSource:
    """A block's home, and behind it the under store. ``on_failure`` hears that the home failed; ``buffers`` bounds
    what all such sources hold."""

    def __init__(
        self,
        client: BlockClient,
        call: HomeCall,
        geometry: Geometry,
        behind: UfsSource,
        on_failure: Callable[[], None],
        *,
        buffers: asyncio.Semaphore,
    ) -> None:
        self._client = client
        self._call = call
        self._geometry = geometry
        self._behind = behind
        self._on_failure = on_failure
        self._buffers = buffers
        self._has_failed = False

    @property
    def name(self) -> SourceName:
        """``peer``, or ``ufs`` once the home has failed."""
        return "ufs" if self._has_failed else "peer"

    @property
    def is_atomic(self) -> bool:
        """The home has checked what it sends; the under store behind it may be of another kind."""
        return self._behind.is_atomic

    async def read(self, start: int, length: int) -> AsyncIterator[bytes | memoryview]:
        """See ``BlockSource``. What the home says about the file itself (stale, gone, denied) is final."""
        stop = start + length
        while start < stop and not self._has_failed:
            part = ByteRange(start, min(stop, self._geometry.span(start // self._geometry.extent_size)[1]))
            async with self._buffers:
                try:
                    piece = await self._ask(part)
                except (PeerError, DeadlineExceeded, Overloaded, NotReady):
                    self._has_failed = True
                    self._on_failure()
                    break
                yield piece
            start = part.stop
        if start < stop:
            async with closing(self._behind.read(start, stop - start)) as pieces:
                async for rest in pieces:
                    yield rest

    async def _ask(self, part: ByteRange) -> memoryview:
        buffer = memoryview(bytearray(part.length))
        call = self._call
        headers = {
            "range": format_range(part.start, part.stop),
            TICKET_HEADER: call.ticket,
            HOP_HEADER: "1",
            READ_TYPE_HEADER: call.read_type,
        }
        deadline = Deadline.after(PEER_TIMEOUT_S)
        reply = await self._client.read_into(call.address, call.path, buffer, deadline=deadline, headers=headers)
        check_answer(reply.headers, reply.length, part, self._geometry, buffer)
        return buffer


def check_answer(
    headers: Mapping[str, str], length: int, part: ByteRange, geometry: Geometry, body: memoryview
) -> None:
    """Whether a peer's answer is the part that was asked for; its checksums are compared where they cover it.

    Raises:
        PeerMisbehaved: it is not.
    """
    given, whole = parse_content_range(headers.get("content-range"))
    if given != part or whole != geometry.length or length != part.length:
        raise PeerMisbehaved("the peer sent another part of the block", length=length, expected=part.length)
    crcs = parse_crcs(headers.get(CRC_HEADER))
    extents = geometry.touched(part.start, part.stop)
    if crcs and part.start == geometry.span(extents[0])[0] and part.stop == geometry.span(extents[-1])[1]:
        sums = [
            google_crc32c.value(bytes(body[a - part.start : b - part.start])) for a, b in map(geometry.span, extents)
        ]
        if list(crcs) != sums:
            raise PeerMisbehaved("the peer's bytes do not have the checksum that it sent", header=CRC_HEADER)
