"""The store's index: which blocks are here, in which state, and who owns every byte of capacity.

Pure: it decides and counts; ``store.Store`` does. A block's life is the table ``TRANSITIONS``::

    (absent) --reserve--> FILLING --complete--> SEALING --sealed--> SEALED
                             |                     |                   |
                             +-----evict/fail------+-------------------+--> LEAVING --left--> (absent)

Capacity is reserved for the whole block when its fill starts, so that a fill never runs out of room half-way, and is
given back when the file is unlinked *and* the last lease (a read that holds the mapping) has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from forebay_worker.extents import ExtentSet, Geometry
from forebay_worker.policies import Policy

CHARGE_UNIT = 4096
"""Files occupy whole pages; a block is charged for them."""


class State(Enum):
    """Where a block is in its life."""

    FILLING = "filling"
    SEALING = "sealing"
    SEALED = "sealed"
    LEAVING = "leaving"


class Event(Enum):
    """What can happen to a block."""

    COMPLETE = "complete"
    SEAL = "seal"
    LEAVE = "leave"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.FILLING, Event.COMPLETE): State.SEALING,
    (State.SEALING, Event.SEAL): State.SEALED,
    (State.FILLING, Event.LEAVE): State.LEAVING,
    (State.SEALING, Event.LEAVE): State.LEAVING,
    (State.SEALED, Event.LEAVE): State.LEAVING,
}
"""Every legal move; any other pair is a bug of ours and raises ``ValueError``."""


def charge_of(length: int) -> int:
    """Bytes of capacity that a block of ``length`` bytes takes."""
    return -(-length // CHARGE_UNIT) * CHARGE_UNIT


@dataclass(eq=False, slots=True)
class Block:
    """One block of the index.

    ``tier`` is the place of its directory in the list. ``busy`` counts tasks that fill or seal it, ``leases`` reads
    that use its bytes: with either it is not evictable. ``crcs`` are the CRC32C sums of its extents once it is
    complete; none if it was found at start.
    """

    block_id: str
    tier: int
    extents: ExtentSet
    state: State
    leases: int = 0
    busy: int = 0
    unlinked: bool = False
    crcs: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Bytes of the block."""
        return self.extents.geometry.length

    @property
    def charge(self) -> int:
        """Bytes of capacity it takes."""
        return charge_of(self.length)

    @property
    def is_evictable(self) -> bool:
        """Whether nobody fills, awaits, seals or reads it."""
        return self.leases == 0 and self.busy == 0 and self.state in {State.FILLING, State.SEALED}

    @property
    def is_going(self) -> bool:
        """Whether it is leaving and nothing holds it up."""
        return self.state is State.LEAVING and self.leases == 0 and self.busy == 0


@dataclass(frozen=True)
class Reserved:
    """The block may be filled."""

    block: Block


@dataclass(frozen=True)
class NeedsRoom:
    """These must leave first (they are not yet marked); then ask again. None of them: what is leaving this tier
    already will be enough."""

    tier: int
    victims: tuple[Block, ...]


@dataclass(frozen=True)
class Refused:
    """Nothing can make room, or the block is just leaving: serve the read without caching. ``reason`` is a label."""

    reason: str


@dataclass
class _Tier:
    capacity: int
    policy: Policy
    used: int = 0
    in_service: bool = True


class StoreIndex:
    """Blocks and capacity of all tier directories of one worker.

    Invariants (``validate``):
    1. A tier's used bytes are the sum of its blocks' charges, whatever their state.
    2. Used bytes never exceed the capacity.
    3. FILLING blocks miss at least one extent; SEALING and SEALED blocks miss none.
    4. A tier's policy knows exactly its blocks that are not LEAVING.
    5. Leases and busy counts are not negative; an unlinked block is LEAVING.
    6. An unlinked block without leases is gone.
    7. The blocks known to be leaving are those that are LEAVING.
    """

    def __init__(self, tiers: Sequence[tuple[int, Policy]]) -> None:
        self._tiers = [_Tier(capacity, policy) for capacity, policy in tiers]
        self._blocks: dict[str, Block] = {}
        self._leaving: set[Block] = set()

    # -- reading

    def get(self, block_id: str) -> Block | None:
        """The block, unless it is leaving."""
        block = self._blocks.get(block_id)
        return None if block is None or block.state is State.LEAVING else block

    def used(self, tier: int) -> int:
        """Bytes of capacity taken in one tier directory, leaving blocks included."""
        return self._tiers[tier].used

    def capacity(self, tier: int) -> int:
        """Capacity of one tier directory in bytes."""
        return self._tiers[tier].capacity

    def counts(self) -> dict[State, int]:
        """Blocks by state."""
        counts = dict.fromkeys(State, 0)
        for block in self._blocks.values():
            counts[block.state] += 1
        return counts

    def __len__(self) -> int:
        return len(self._blocks)

    # -- admission

    def reserve(
        self, block_id: str, geometry: Geometry, dataset: str = "", now_s: float = 0.0
    ) -> Reserved | NeedsRoom | Refused:
        """Capacity for a block that is not here: the first tier directory with room, else the first that can make it,
        of those whose policy admits it. ``dataset`` is the mount that it is read through.

        Raises:
            ValueError: the block is here and not leaving.
        """
        here = self._blocks.get(block_id)
        if here is not None and here.state is not State.LEAVING:
            raise ValueError(f"block {block_id} is here")
        if here is not None:
            return Refused("leaving")
        charge = charge_of(geometry.length)
        reason, able = "full", []
        for number, tier in enumerate(self._tiers):
            if not tier.in_service or charge > tier.capacity:
                continue
            admission = tier.policy.admit(block_id, charge, dataset, now_s)
            if not admission.is_admitted:
                reason = admission.reason
            elif charge <= tier.capacity - tier.used:
                return Reserved(self._add(block_id, number, ExtentSet(geometry), State.FILLING, dataset, now_s))
            else:
                able.append(number)
        for number in able:
            need = charge - (self._tiers[number].capacity - self._tiers[number].used) - self._leaving_bytes(number)
            victims = self.victims(number, need, now_s)
            if victims or need <= 0:
                return NeedsRoom(number, victims)
        return Refused("full" if able else reason)

    def _leaving_bytes(self, tier: int) -> int:
        """What comes back without anybody's doing: leaving blocks that nobody reads any more."""
        return sum(block.charge for block in self._leaving if block.tier == tier and block.is_going)

    def victims(self, tier: int, need_bytes: int, now_s: float = 0.0) -> tuple[Block, ...]:
        """Evictable blocks of one tier, in the policy's order, that together free ``need_bytes``; none if all of them
        together do not."""
        names = self._tiers[tier].policy.victims(need_bytes, now_s, busy=self._is_busy)
        chosen = tuple(self._blocks[name] for name in names)
        return chosen if sum(block.charge for block in chosen) >= need_bytes else ()

    def _is_busy(self, block_id: str) -> bool:
        return not self._blocks[block_id].is_evictable

    def excess(self, tier: int, *, high: float, low: float) -> int:
        """Bytes to evict so that a tier above its high watermark (share of capacity) falls to the low one."""
        held = self._tiers[tier]
        return max(0, held.used - int(held.capacity * low)) if held.used > held.capacity * high else 0

    def restore(self, block_id: str, length: int, tier: int, now_s: float = 0.0) -> Block | None:
        """Takes in a sealed block found at start; ``None`` if it is known already or there is no room."""
        held = self._tiers[tier]
        if block_id in self._blocks or length < 1 or charge_of(length) > held.capacity - held.used:
            return None
        return self._add(block_id, tier, ExtentSet(Geometry(length), full=True), State.SEALED, "", now_s)

    def _add(self, block_id: str, tier: int, extents: ExtentSet, state: State, dataset: str, now_s: float) -> Block:
        block = self._blocks[block_id] = Block(block_id, tier, extents, state)
        self._tiers[tier].used += block.charge
        self._tiers[tier].policy.inserted(block_id, block.charge, dataset, now_s)
        return block

    # -- what happens to a block

    def landed(self, block: Block, extent: int) -> bool:
        """An extent was written; whether the block is complete now and must be sealed."""
        if block.state is not State.FILLING:
            return False
        block.extents.add(extent)
        if block.extents.is_full:
            self._move(block, Event.COMPLETE)
            return True
        return False

    def sealed(self, block: Block) -> None:
        """Its file has the name of a complete block."""
        self._move(block, Event.SEAL)

    def leave(self, block: Block) -> None:
        """Evicted, failed or freed: no read finds it any more; its bytes count until ``left``."""
        self._move(block, Event.LEAVE)
        self._leaving.add(block)
        self._tiers[block.tier].policy.removed(block.block_id)

    def left(self, block: Block) -> None:
        """Its file is unlinked."""
        if block.state is not State.LEAVING:
            raise ValueError(f"block {block.block_id} is {block.state.value}, not leaving")
        block.unlinked = True
        self._drop_if_gone(block)

    def lease(self, block: Block) -> None:
        """A read uses its bytes."""
        block.leases += 1

    def release(self, block: Block) -> None:
        """That read ended."""
        block.leases -= 1
        self._drop_if_gone(block)

    def read(self, block_id: str, now_s: float = 0.0, dataset: str = "") -> bool:
        """Tells the policy of a read or a touch; whether the block is here."""
        block = self.get(block_id)
        if block is not None:
            self._tiers[block.tier].policy.touched(block.block_id, now_s, dataset)
        return block is not None

    def retire(self, tier: int) -> None:
        """Takes a tier directory that errs out of service: nothing is admitted to it any more."""
        self._tiers[tier].in_service = False

    def return_to_service(self, tier: int) -> None:
        """Admits to a tier directory again."""
        self._tiers[tier].in_service = True

    def is_in_service(self, tier: int) -> bool:
        """Whether a tier directory takes new blocks."""
        return self._tiers[tier].in_service

    def _move(self, block: Block, event: Event) -> None:
        try:
            block.state = TRANSITIONS[block.state, event]
        except KeyError as e:
            raise ValueError(f"block {block.block_id}: {event.value} while {block.state.value}") from e

    def _drop_if_gone(self, block: Block) -> None:
        if block.unlinked and block.leases == 0:
            del self._blocks[block.block_id]
            self._leaving.discard(block)
            self._tiers[block.tier].used -= block.charge

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks.values())

    def validate(self) -> None:
        """Raises ``AssertionError`` naming the invariant that is broken."""
        for number, tier in enumerate(self._tiers):
            mine = [block for block in self._blocks.values() if block.tier == number]
            _check(tier.used == sum(block.charge for block in mine), 1, number)
            _check(tier.used <= tier.capacity, 2, number)
            known = {resident.block for resident in tier.policy}
            _check(known == {b.block_id for b in mine if b.state is not State.LEAVING}, 4, number)
            _check(len(known) == len(tier.policy), 4, number)
        for block in self._blocks.values():
            if block.state is State.FILLING:
                _check(not block.extents.is_full, 3, block.block_id)
            if block.state in {State.SEALING, State.SEALED}:
                _check(block.extents.is_full, 3, block.block_id)
            _check(block.leases >= 0 and block.busy >= 0, 5, block.block_id)
            _check(not block.unlinked or block.state is State.LEAVING, 5, block.block_id)
            _check(not (block.unlinked and block.leases == 0), 6, block.block_id)
        _check(self._leaving == {b for b in self._blocks.values() if b.state is State.LEAVING}, 7, len(self._leaving))


def _check(holds: bool, number: int, what: object) -> None:
    if not holds:
        raise AssertionError(f"invariant {number} is broken for {what}")
