"""Hands blocks to those who own them by now, at a bounded rate, when an operator says so.

Nothing else moves blocks when members come and go: they move when they are read. This reads them: a block that another
worker is home of is read there by one byte from its start, the home finds it here by its probe and completes it in the
background, and once every extent is there the copy here goes. A home whose mount keeps replicas reads them at the
other owners likewise, twice, because a replica is filled by its second read. So no request exists that only a rebalance
makes.

Blocks found at a restart have no target (file and version) before they are read once; they are counted as unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from forebay.contracts import BlockTarget, Member, RebalanceReply
from forebay.contracts.blocks import HOP_HEADER, ONLY_IF_CACHED, TICKET_HEADER, block_path, format_range
from forebay.contracts.tickets import KeyRing, TicketClaims, sign
from forebay.errors import ForebayError, NotCached
from forebay.runtime import Deadline, logs
from forebay_worker.access import Asked
from forebay_worker.block import Block, State
from forebay_worker.mounts import Mounted
from forebay_worker.peers import BlockClient
from forebay_worker.routing import Homes
from forebay_worker.store import Store

TARGETS_MAX = 200_000
"""Blocks whose targets are remembered (400 bytes each)."""

CALL_S = 10.0
COMPLETE_S = 60.0
"""How long a new owner may take to complete one block."""

POLL_S = 0.05
TICKET_S = 300.0


class Targets:
    """What the blocks here are: told by the reads that asked for them. Pure; the oldest goes."""

    def __init__(self, *, targets_max: int = TARGETS_MAX) -> None:
        self._targets_max = targets_max
        self._asked: dict[str, tuple[Mounted, BlockTarget]] = {}

    def note(self, asked: Asked) -> None:
        """A read named a block."""
        if asked.block_id in self._asked:
            return
        if len(self._asked) >= self._targets_max:
            del self._asked[next(iter(self._asked))]
        self._asked[asked.block_id] = asked.mounted, asked.target

    def get(self, block_id: str) -> tuple[Mounted, BlockTarget] | None:
        """Mount and target, if a read told."""
        return self._asked.get(block_id)


@dataclass(frozen=True)
class Handover:
    """A block and who is to have it; ``leaves``: the copy here goes afterwards."""

    block_id: str
    to: tuple[Member, ...]
    leaves: bool


def handover(me: str, block_id: str, owners: list[Member]) -> Handover | None:
    """What to do about a block that is here; ``owners`` are the first of its ranking, as many as it has replicas."""
    names = [m.member_id for m in owners]
    live = tuple(m for m in owners if m.member_id != me and m.state == "live")
    if not owners or not live:
        return None
    if me not in names:
        return Handover(block_id, live[:1], leaves=True) if live[0] is owners[0] else None
    return Handover(block_id, live, leaves=False) if names[0] == me else None


class Rebalance:
    """One at a time. ``run`` is its task; ``start`` and ``stop`` say what it does."""

    def __init__(
        self, me: str, store: Store, homes: Homes, client: BlockClient, ring: KeyRing, cluster_id: str
    ) -> None:
        self._me = me
        self._store = store
        self._homes = homes
        self._client = client
        self._ring = ring
        self._cluster_id = cluster_id
        self._log = logs.get("forebay_worker.rebalance")
        self._wanted = asyncio.Event()
        self._bytes_per_s = 0
        self._waiting: list[Handover] = []
        self._moved = self._failed = self._unknown = 0
        self.targets = Targets()

    def start(self, bytes_per_s: int) -> None:
        """Looks through all blocks anew; one that runs goes on at the new rate with the new list."""
        self._bytes_per_s = bytes_per_s
        self._moved = self._failed = self._unknown = 0
        self._waiting = list(self._plan()) if bytes_per_s else []
        self._log.info("rebalance", bytes_per_s=bytes_per_s, blocks=len(self._waiting), unknown=self._unknown)
        self._wanted.set()

    def state(self) -> RebalanceReply:
        """How far it is."""
        return RebalanceReply(
            running=bool(self._waiting),
            waiting=len(self._waiting),
            moved=self._moved,
            failed=self._failed,
            unknown=self._unknown,
        )

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wanted.clear()
            while self._waiting:
                await self._next()
            await self._wanted.wait()

    def _plan(self) -> Iterable[Handover]:
        for block in tuple(self._store.index):
            if block.state is not State.SEALED:
                continue
            known = self.targets.get(block.block_id)
            replicas = known[0].mount.replicas if known is not None else 1
            found = handover(self._me, block.block_id, self._homes.owners(block.block_id, replicas))
            if found is not None and known is None:
                self._unknown += 1
            elif found is not None:
                yield found

    async def _next(self) -> None:
        """One block, and then as long a pause as the rate asks for."""
        begun_s, work = time.monotonic(), self._waiting[-1]
        block = self._store.index.get(work.block_id)
        moved = False
        if block is not None and block.state is State.SEALED:
            moved = await self._hand(work, block)
            self._moved += moved
            self._failed += not moved
        if self._waiting and self._waiting[-1] is work:
            self._waiting.pop()
        if moved and block is not None and self._bytes_per_s:
            pause_s = len(work.to) * block.length / self._bytes_per_s - (time.monotonic() - begun_s)
            await asyncio.sleep(max(0.0, pause_s))

    async def _hand(self, work: Handover, block: Block) -> bool:
        known = self.targets.get(work.block_id)
        if known is None:
            return False
        call = _Call(self._client, known, work.block_id, self.ticket(known[0]), block)
        try:
            for member in work.to:
                await call.give(member, times=1 if work.leaves else 2)
        except ForebayError as e:
            self._log.warning("not_handed_over", block_id=work.block_id, code=e.code, error=e.message)
            return False
        if work.leaves and block.state is State.SEALED and block.is_evictable:
            await self._store.evict([block], "moved")
        return True

    def ticket(self, mounted: Mounted) -> str:
        """This worker's own right to read a mount's blocks at others."""
        claims = TicketClaims(
            cluster=self._cluster_id,
            mount_id=mounted.mount.mount_id,
            generation=mounted.mount.generation,
            prefix="",
            client=self._me,
            rights="r",
            expires_at_s=time.time() + TICKET_S,
        )
        return sign(self._ring, claims)


class _Call:
    """Requests about one block to those who are to have it."""

    def __init__(
        self, client: BlockClient, known: tuple[Mounted, BlockTarget], block_id: str, ticket: str, block: Block
    ) -> None:
        self._client = client
        self._path = block_path(block_id, known[1])
        self._ticket = ticket
        self._geometry = block.extents.geometry

    async def give(self, member: Member, *, times: int) -> None:
        """Has the member read the block, and waits until it holds all of it.

        Raises:
            ForebayError: it does not answer, or does not hold it after ``COMPLETE_S``.
        """
        if await self._holds(member):
            return
        for _ in range(times):
            await self._byte(member, 0, {})
        deadline = Deadline.after(COMPLETE_S)
        while not await self._holds(member):
            if deadline.expired:
                raise NotCached("the new owner did not complete the block")
            await asyncio.sleep(POLL_S)

    async def _holds(self, member: Member) -> bool:
        """Whether every extent is there; the last one first, for it comes last."""
        try:
            for extent in reversed(range(self._geometry.count)):
                start = self._geometry.span(extent)[0]
                await self._byte(member, start, {HOP_HEADER: "1", "cache-control": ONLY_IF_CACHED})
        except NotCached:
            return False
        return True

    async def _byte(self, member: Member, at: int, headers: dict[str, str]) -> None:
        given = {TICKET_HEADER: self._ticket, "range": format_range(at, at + 1), **headers}
        buffer = memoryview(bytearray(1))
        await self._client.read_into(member.tcp, self._path, buffer, deadline=Deadline.after(CALL_S), headers=given)
