"""How a load moves bytes: blocks of a batch are asked for at their owners, within a window, until they are held.

No request exists that only a load makes. One byte from a block's start, asked as a hop, makes its owner fill the whole
block (``forebay-hop: 1``: from its peers or the under store, never through another home); whether it is there is then
asked by ``/v1/blocks:holds``, of many blocks at a time. What the workers may ask of the under store is bounded by
their own limits; the window here bounds what waits at each worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from forebay.contracts import BlockTarget, Member, Mount, StatusReply
from forebay.contracts.blocks import HOP_HEADER, READ_TYPE_HEADER, TICKET_HEADER, block_path, format_range
from forebay.contracts.loads import HOLDS_MAX, HOLDS_PATH, HoldsReply, HoldsRequest
from forebay.contracts.tickets import KeyRing, TicketClaims, sign
from forebay.errors import DeadlineExceeded, ForebayError, NotReady, Overloaded, PeerError
from forebay.runtime import Deadline
from forebay.transport import HttpClient

WINDOW_BLOCKS = 64
WINDOW_BYTES = 1 << 30
"""What one worker is asked for and does not hold yet, per load."""

ASKING_MAX = 16
"""Requests under way to one worker, per load."""

VERIFY_BYTES = 1 << 30
"""Bytes that one question has a worker verify."""

CALL_S, VERIFY_S, TICKET_S = 30.0, 120.0, 600.0
POLL_S, POLL_MAX_S = 0.02, 0.5
STALL_S = 60.0
"""How long the blocks of a window may take without one of them getting complete."""

T = TypeVar("T")

AWAY = (PeerError, DeadlineExceeded, NotReady, Overloaded)


class Piece(NamedTuple):
    """One block that one worker is to hold."""

    path: str
    block_id: str
    mount: Mount
    target: BlockTarget
    length: int


@dataclass
class Outcome:
    """What became of some pieces at one worker: by block id, why it is not held. ``away``: it did not answer."""

    reasons: dict[str, str] = field(default_factory=dict)
    away: bool = False


class WorkerCalls:
    """Calls to workers in the name of the master."""

    def __init__(self, client: HttpClient, ring: KeyRing, cluster_id: str, me: str) -> None:
        self._client = client
        self._ring = ring
        self._cluster_id = cluster_id
        self._me = me

    async def status(self, member: Member) -> StatusReply:
        """``/v1/status``."""
        deadline = Deadline.after(CALL_S)
        return await self._client.call(member.tcp, "/v1/status", None, StatusReply, deadline=deadline, method="GET")

    async def holds(self, member: Member, pieces: Sequence[Piece], *, verify: bool = False) -> HoldsReply:
        """What of some pieces it holds. Raises ForebayError."""
        complete, filling, corrupt = list[str](), list[str](), list[str]()
        for part in _parts(pieces, verify=verify):
            reply = await self._client.call(
                member.tcp,
                HOLDS_PATH,
                HoldsRequest(block_ids=tuple(p.block_id for p in part), verify=verify),
                HoldsReply,
                deadline=Deadline.after(VERIFY_S if verify else CALL_S),
                headers={TICKET_HEADER: self._ticket(part[0].mount)},
            )
            complete += reply.complete
            filling += reply.filling
            corrupt += reply.corrupt
        return HoldsReply(complete=tuple(complete), filling=tuple(filling), corrupt=tuple(corrupt))

    async def ask(self, member: Member, piece: Piece) -> None:
        """Makes it fill a block; returns with its first byte. Raises ForebayError."""
        headers = {
            TICKET_HEADER: self._ticket(piece.mount),
            HOP_HEADER: "1",
            READ_TYPE_HEADER: "CACHE",
            "range": format_range(0, 1),
        }
        path, buffer = block_path(piece.block_id, piece.target), memoryview(bytearray(1))
        await self._client.read_into(member.tcp, path, buffer, deadline=Deadline.after(CALL_S), headers=headers)

    def _ticket(self, mount: Mount) -> str:
        claims = TicketClaims(
            cluster=self._cluster_id,
            mount_id=mount.mount_id,
            generation=mount.generation,
            prefix="",
            client=self._me,
            rights="r",
            expires_at_s=time.time() + TICKET_S,
        )
        return sign(self._ring, claims)


def _parts(pieces: Sequence[Piece], *, verify: bool) -> list[Sequence[Piece]]:
    """Pieces as questions of bounded work."""
    parts: list[list[Piece]] = []
    size = 0
    for piece in pieces:
        size += piece.length
        if not parts or len(parts[-1]) >= HOLDS_MAX or (verify and size > VERIFY_BYTES):
            parts.append([])
            size = piece.length
        parts[-1].append(piece)
    return list(parts)


def windows(pieces: Sequence[Piece]) -> list[Sequence[Piece]]:
    """What is asked for at a time. Pure."""
    found: list[list[Piece]] = []
    size = 0
    for piece in pieces:
        size += piece.length
        if not found or len(found[-1]) >= WINDOW_BLOCKS or size > WINDOW_BYTES:
            found.append([])
            size = piece.length
        found[-1].append(piece)
    return list(found)


async def fill(
    calls: WorkerCalls, member: Member, pieces: Sequence[Piece], on_held: Callable[[Piece, bool], None]
) -> Outcome:
    """Has a worker hold some pieces, and says of which it does not. ``on_held`` hears of each that it holds, and
    whether it was filled just now."""
    outcome = Outcome()
    try:
        held = set((await calls.holds(member, pieces)).complete)
        for piece in pieces:
            if piece.block_id in held:
                on_held(piece, False)
        missing = [p for p in pieces if p.block_id not in held]
        for window in windows(missing):
            await _fill_window(calls, member, window, on_held, outcome)
    except AWAY as e:
        outcome.away = True
        outcome.reasons.setdefault("", e.message)
    return outcome


async def _fill_window(
    calls: WorkerCalls,
    member: Member,
    window: Sequence[Piece],
    on_held: Callable[[Piece, bool], None],
    outcome: Outcome,
) -> None:
    turns = asyncio.Semaphore(ASKING_MAX)

    async def ask(piece: Piece) -> Piece | None:
        async with turns:
            try:
                await calls.ask(member, piece)
            except AWAY:
                raise
            except ForebayError as e:
                outcome.reasons[piece.block_id] = f"{e.code}: {e.message}"
                return None
            return piece

    asked = await _all([ask(piece) for piece in window])
    pending = {piece.block_id: piece for piece in asked if piece is not None}
    pause_s, until_s = POLL_S, time.monotonic() + STALL_S
    while pending:
        reply = await calls.holds(member, list(pending.values()))
        for name in reply.complete:
            if (piece := pending.pop(name, None)) is not None:
                on_held(piece, True)
                until_s = time.monotonic() + STALL_S
        on_its_way = set(reply.filling)
        for name in [n for n in pending if n not in on_its_way]:
            del pending[name]
            outcome.reasons[name] = "the worker did not keep it: no room under its policy, or it was evicted at once"
        if pending and time.monotonic() > until_s:
            outcome.reasons.update(dict.fromkeys(pending, f"no progress within {STALL_S:.0f} s"))
            return
        if pending:
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, POLL_MAX_S)


async def _all(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as e:
        raise e.exceptions[0] from e
    return [task.result() for task in tasks]
