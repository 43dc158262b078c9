"""Reading a block from other workers: extent by extent, checked, and past them to the under store when they fail.

Through its home, which fills it; from workers that may hold it (probes), when this one is home and does not; from the
second in ranking, when this one is home and does not want it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import google_crc32c

from forebay.contracts.blocks import (
    CRC_HEADER,
    HOP_HEADER,
    ONLY_IF_CACHED,
    READ_TYPE_HEADER,
    TICKET_HEADER,
    ByteRange,
    format_range,
    parse_content_range,
    parse_crcs,
)
from forebay.contracts.blocks import Source as SourceName
from forebay.contracts.records import ReadType
from forebay.errors import (
    DeadlineExceeded,
    ForebayError,
    NotCached,
    NotReady,
    Overloaded,
    PeerError,
    PeerMisbehaved,
)
from forebay.runtime import Deadline
from forebay_worker.extents import Geometry
from forebay_worker.sources import UfsSource, closing, joined

PEER_TIMEOUT_S = 10.0
"""One extent from the home; then the under store is asked instead."""

PROBE_TIMEOUT_S = 2.0
"""One extent from a worker that may hold it: longer than a busy worker needs for 4 MiB, no wait that a reader minds."""

AHEAD_TIMEOUT_S = 0.5
"""The same from the home in whose place this worker was asked: somebody found it failing or slow."""

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


class Block(Protocol):
    """What a peer is asked for; ``access.Asked`` is one."""

    @property
    def block_id(self) -> str:
        """Its id."""

    @property
    def geometry(self) -> Geometry:
        """Its extents."""


@dataclass(frozen=True)
class PeerCall:
    """How one peer is asked for one block. ``only_if_cached`` is a probe: it causes nothing at the peer."""

    member_id: str
    address: str
    path: str
    ticket: str
    read_type: ReadType
    only_if_cached: bool = False
    is_ahead: bool = False

    @property
    def timeout_s(self) -> float:
        """For one extent."""
        if self.is_ahead:
            return AHEAD_TIMEOUT_S
        return PROBE_TIMEOUT_S if self.only_if_cached else PEER_TIMEOUT_S

    def headers(self, part: ByteRange) -> dict[str, str]:
        """Of the request for a part of the block."""
        headers = {
            "range": format_range(part.start, part.stop),
            TICKET_HEADER: self.ticket,
            HOP_HEADER: "1",
            READ_TYPE_HEADER: self.read_type,
        }
        return headers | {"cache-control": ONLY_IF_CACHED} if self.only_if_cached else headers


class PeerNotes(Protocol):
    """Who hears what peers did."""

    def failed(self, member_id: str) -> None:
        """It did not answer, or answered garbage."""

    def lacks(self, member_id: str, block_id: str) -> None:
        """It was probed and does not hold the block."""


class PeerSource:
    """A block at other workers, asked one after the other, and behind them the under store. ``buffers`` bounds what
    all such sources hold."""

    def __init__(
        self,
        client: BlockClient,
        calls: Sequence[PeerCall],
        asked: Block,
        behind: UfsSource,
        notes: PeerNotes,
        *,
        buffers: asyncio.Semaphore,
    ) -> None:
        self._client = client
        self._calls = list(calls)
        self._block = asked
        self._behind = behind
        self._notes = notes
        self._buffers = buffers
        self._name: SourceName = "peer" if calls and not calls[0].only_if_cached else "ufs"
        self.served_by: str | None = None

    @property
    def name(self) -> SourceName:
        """Where the last piece came from; before the first, where the next is expected from."""
        return self._name

    @property
    def lane(self) -> str:
        """See ``BlockSource``: the peer that is read through, or what lies behind those that are only probed."""
        if self._calls and not self._calls[0].only_if_cached:
            return f"peer:{self._calls[0].member_id}"
        return self._behind.lane

    @property
    def is_atomic(self) -> bool:
        """A peer has checked what it sends; the under store behind it may be of another kind."""
        return self._behind.is_atomic

    def read(self, start: int, length: int) -> AsyncIterator[bytes | memoryview]:
        """See ``BlockSource``. What a home says about the file itself (stale, gone, denied) is final."""
        return self._pieces(start, length, self._behind.read)

    def lend(self, start: int, length: int) -> AsyncIterator[bytes | memoryview]:
        """See ``BlockSource``."""
        return self._pieces(start, length, self._behind.lend)

    async def take(self, start: int, length: int) -> bytes:
        """See ``BlockSource``."""
        if not self._calls:
            return await self._behind.take(start, length)
        return await joined(self.lend(start, length))

    async def _pieces(
        self, start: int, length: int, behind: Callable[[int, int], AsyncIterator[bytes | memoryview]]
    ) -> AsyncIterator[bytes | memoryview]:
        stop, geometry = start + length, self._block.geometry
        while start < stop and self._calls:
            call = self._calls[0]
            part = ByteRange(start, min(stop, geometry.span(start // geometry.extent_size)[1]))
            async with self._buffers:
                piece = await self._try(call, part)
                if piece is not None:
                    self._name, self.served_by = "peer", call.member_id
                    yield piece
                    start = part.stop
                elif call in self._calls:  # another stream may have given it up meanwhile
                    self._calls.remove(call)
        if start < stop:
            self._name = "ufs"
            async with closing(behind(start, stop - start)) as pieces:
                async for rest in pieces:
                    self._name = "ufs"
                    yield rest

    async def _try(self, call: PeerCall, part: ByteRange) -> memoryview | None:
        """The part, or ``None`` if this peer is not to be asked again."""
        try:
            return await self._ask(call, part)
        except (PeerError, DeadlineExceeded, Overloaded, NotReady):
            self._notes.failed(call.member_id)
        except NotCached:
            self._notes.lacks(call.member_id, self._block.block_id)
        except ForebayError:
            if not call.only_if_cached:
                raise
        return None

    async def _ask(self, call: PeerCall, part: ByteRange) -> memoryview:
        buffer = memoryview(bytearray(part.length))
        deadline = Deadline.after(call.timeout_s)
        reply = await self._client.read_into(
            call.address, call.path, buffer, deadline=deadline, headers=call.headers(part)
        )
        check_answer(reply.headers, reply.length, part, self._block.geometry, buffer)
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
