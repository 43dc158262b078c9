"""The store's index: which blocks are here, in which state, and who owns every byte of capacity.

Pure: it decides and counts; ``store.Store`` does. A block's life is the table ``TRANSITIONS``::

    (absent) --reserve--> FILLING --complete--> SEALING --sealed--> SEALED
                             |                     |                   |
                             +-----evict/fail------+-------------------+--> LEAVING --left--> (absent)

Capacity is reserved for the whole block when its fill starts, so that a fill never runs out of room half-way, and is
given back when the file is unlinked, nobody has it open any more, *and* the last lease (a read that holds the mapping)
has ended.

A worker may hold a million small blocks, so a sealed block that nobody uses is one packed number (``_pack``) and not
an object: 48 bytes instead of some 250. ``Block`` objects of sealed blocks are made when they are asked for and live
as long as somebody holds them; whoever asks meanwhile gets the same object.

A move between tiers (promotion, demotion) reserves room in the new tier first; when the copy has its final name there,
``end_move`` makes it the block, and what is left in the old tier becomes a *ghost*: a LEAVING block of the same id
whose bytes count until its file is gone. While there is a ghost, the id is not admitted anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from weakref import WeakValueDictionary

from forebay.contracts.records import EXTENT_SIZE
from forebay_worker.extents import ExtentSet, Geometry
from forebay_worker.policies import Policy
from forebay_worker.policies.rules import Fill, TierRules, excess, has_room

CHARGE_UNIT = 4096
"""Files occupy whole pages; a block is charged for them."""

CRCS_INLINE_MAX = 4
"""Checksums that the index itself keeps: those of blocks under 16 MiB; larger ones have a sidecar."""

DATASETS_MAX = 65_535
"""Mounts that are told apart in figures; blocks of further ones count under no name."""

_TIER_AT, _DATASET_AT, _HAS_CRCS_AT, _CRCS_AT = 48, 56, 72, 73


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


class Block:
    """One block of the index.

    ``tier`` is the place of its directory in the list. ``busy`` counts tasks that fill, seal or move it, ``leases``
    reads that use its bytes: with either it is not evictable. ``held`` means that its file is unlinked and still open
    somewhere. The index itself keeps the checksums of blocks of up to ``CRCS_INLINE_MAX`` extents.
    """

    __slots__ = (
        "__weakref__",
        "_crcs",
        "_extents",
        "_packed",
        "block_id",
        "busy",
        "dataset",
        "held",
        "leases",
        "length",
        "moving_to",
        "state",
        "tier",
        "unlinked",
    )

    def __init__(
        self,
        block_id: str,
        tier: int,
        length: int,
        state: State,
        *,
        dataset: str = "",
        extents: ExtentSet | None = None,
    ) -> None:
        self.block_id = block_id
        self.tier = tier
        self.length = length
        self.state = state
        self.dataset = dataset
        self._extents = extents
        self.leases = 0
        self.busy = 0
        self.unlinked = False
        self.held = False
        self.moving_to: int | None = None
        self._crcs: tuple[int, ...] | None = ()
        self._packed = 0

    @property
    def crcs(self) -> tuple[int, ...]:
        """CRC32C sums of the extents, if the index keeps them."""
        if self._crcs is None:
            count = -(-self.length // EXTENT_SIZE)
            self._crcs = tuple(self._packed >> _CRCS_AT + 32 * number & 0xFFFFFFFF for number in range(count))
        return self._crcs

    @crcs.setter
    def crcs(self, crcs: tuple[int, ...]) -> None:
        self._crcs = crcs

    def has_packed_crcs(self, packed: int) -> None:
        """They are taken out when they are asked for."""
        self._crcs, self._packed = None, packed

    @property
    def extents(self) -> ExtentSet:
        """Which extents are present; of a sealed block all."""
        return ExtentSet(Geometry(self.length), full=True) if self._extents is None else self._extents

    @property
    def charge(self) -> int:
        """Bytes of capacity it takes."""
        return charge_of(self.length)

    @property
    def is_evictable(self) -> bool:
        """Whether nobody fills, awaits, seals, moves or reads it."""
        return self.leases == 0 and self.busy == 0 and self.state in {State.FILLING, State.SEALED}

    @property
    def is_going(self) -> bool:
        """Whether it is leaving and nothing holds it up."""
        return self.state is State.LEAVING and self.leases == 0 and self.busy == 0 and not self.held

    def completed(self) -> None:
        """It needs no set of extents any more."""
        self._extents = None

    def __repr__(self) -> str:
        return f"<Block {self.block_id} {self.state.value} tier={self.tier} {self.leases=} {self.busy=}>"


@dataclass(frozen=True)
class Reserved:
    """The block may be filled."""

    block: Block


@dataclass(frozen=True)
class Refused:
    """The policy does not want it, there is no room now, or it is just leaving: serve the read without caching.
    ``reason`` is a label."""

    reason: str


@dataclass
class Held:
    """What one mount has in one tier directory."""

    blocks: int = 0
    used_bytes: int = 0


@dataclass
class _Tier:
    capacity: int
    policy: Policy
    used: int = 0
    out: set[str] = field(default_factory=set)
    mounts: dict[str, Held] = field(default_factory=dict)
    rules: TierRules = field(default_factory=TierRules)
    asked: int = 0
    """Bytes that found no room since the last pass of eviction."""

    @property
    def in_service(self) -> bool:
        return not self.out


class StoreIndex:
    """Blocks and capacity of all tier directories of one worker.

    Invariants (``validate``):
    1. A tier's used bytes are the sum of its blocks' charges, whatever their state, ghosts and reserved moves included.
    2. Used bytes never exceed the capacity.
    3. FILLING blocks miss at least one extent; SEALING and SEALED blocks miss none.
    4. A tier's policy knows exactly its blocks that are not LEAVING.
    5. Leases and busy counts are not negative; an unlinked block is LEAVING; a block on the move is SEALED and busy.
    6. An unlinked block without leases is gone.
    7. The blocks known to be leaving are those that are LEAVING; ghosts are among them; held ones have no name.
    8. Counts by state and sums by mount agree with the blocks.
    """

    def __init__(self, tiers: Iterable[tuple[int, Policy]]) -> None:
        self._tiers = [_Tier(capacity, policy) for capacity, policy in tiers]
        self._blocks: dict[str, Block | int] = {}
        self._awake: WeakValueDictionary[str, Block] = WeakValueDictionary()
        self._leaving: set[Block] = set()
        self._ghosts: dict[str, Block] = {}
        self._counts = dict.fromkeys(State, 0)
        self._datasets = [""]
        self._dataset_numbers = {"": 0}

    # -- reading

    def get(self, block_id: str) -> Block | None:
        """The block, unless it is leaving."""
        found = self._blocks.get(block_id)
        if found.__class__ is int:
            return self._wake(block_id, found)
        return found if isinstance(found, Block) and found.state is not State.LEAVING else None

    def used(self, tier: int) -> int:
        """Bytes of capacity taken in one tier directory, leaving blocks included."""
        return self._tiers[tier].used

    def capacity(self, tier: int) -> int:
        """Capacity of one tier directory in bytes."""
        return self._tiers[tier].capacity

    def counts(self) -> dict[State, int]:
        """Blocks by state."""
        return dict(self._counts)

    def mounts(self, tier: int) -> dict[str, Held]:
        """What each mount has in a tier directory, leaving blocks not included."""
        return {name: Held(held.blocks, held.used_bytes) for name, held in list(self._tiers[tier].mounts.items())}

    def sealed_ids(self, tier: int) -> list[str]:
        """Ids of the sealed blocks of one tier directory now."""
        mine = []
        for block_id, found in self._blocks.items():
            if not isinstance(found, Block) and (found >> _TIER_AT & 0xFF) == tier:
                mine.append(block_id)
        return mine

    def is_known(self, block_id: str, tier: int) -> bool:
        """Whether a file of this block in this tier directory is the index's, in whatever state."""
        ghost = self._ghosts.get(block_id)
        found = self._blocks.get(block_id)
        if isinstance(found, Block):
            places = {found.tier, found.moving_to}
        else:
            awake = self._awake.get(block_id)
            places = set() if found is None else {found >> _TIER_AT & 0xFF, awake.moving_to if awake else None}
        return tier in places or (ghost is not None and ghost.tier == tier)

    def held(self) -> list[Block]:
        """Leaving blocks whose unlinked files are still open somewhere."""
        return [block for block in list(self._leaving) if block.held]

    def __len__(self) -> int:
        return len(self._blocks)

    # -- admission

    def reserve(
        self, block_id: str, geometry: Geometry, dataset: str = "", now_s: float = 0.0, *, is_spare: bool = False
    ) -> Reserved | Refused:
        """Capacity for a block that is not here: the first tier directory whose policy admits it and that has room.
        Without any, the last (the slowest) that would have it is asked to make room in the background.

        ``dataset`` is the mount that it is read through. ``is_spare``: a copy that may only have room beyond the
        reserved bytes, and for which nothing is evicted.

        Raises:
            ValueError: the block is here and not leaving.
        """
        here = self._blocks.get(block_id)
        if here is not None and not (isinstance(here, Block) and here.state is State.LEAVING):
            raise ValueError(f"block {block_id} is here")
        if here is not None or block_id in self._ghosts:
            return Refused("leaving")
        charge = charge_of(geometry.length)
        reason, pressed = "full", None
        for number, tier in enumerate(self._tiers):
            if not tier.in_service or charge > tier.capacity:
                continue
            if is_spare and not has_room(self._fill(number), charge, tier.rules, is_spare=True):
                reason = "reserved"
                continue
            admission = tier.policy.admit(block_id, charge, dataset, now_s)
            if not admission.is_admitted:
                reason = admission.reason
            elif has_room(self._fill(number), charge, tier.rules):
                tier.asked += 0 if is_spare else admission.evict_bytes
                block = Block(block_id, number, geometry.length, State.FILLING, extents=ExtentSet(geometry))
                return Reserved(self._add(block, dataset, now_s))
            elif not is_spare:
                pressed, reason = tier, "full"
                tier.asked = max(tier.asked, admission.evict_bytes)  # what it wants to let go of, whoever takes this
        if pressed is not None:
            pressed.asked = max(pressed.asked, charge)
        return Refused(reason)

    def _fill(self, number: int) -> Fill:
        tier = self._tiers[number]
        return Fill(tier.capacity, tier.used, asked=tier.asked)

    def leaving_bytes(self) -> int:
        """Bytes of all tiers in blocks that were let go of and whose room is not back yet."""
        return sum(block.charge for block in self._leaving)

    def _leaving_bytes(self, tier: int) -> int:
        """What comes back without anybody's doing: leaving blocks that nobody reads any more."""
        return sum(block.charge for block in self._leaving if block.tier == tier and block.is_going)

    def set_rules(self, tier: int, rules: TierRules) -> None:
        """Watermarks and reserved bytes of a tier directory from now on."""
        self._tiers[tier].rules = rules

    def policy(self, tier: int) -> Policy:
        """What decides in a tier directory."""
        return self._tiers[tier].policy

    def excess(self, tier: int) -> int:
        """Bytes to evict in the background now; see ``policies.rules``. What was asked for counts once."""
        held = self._tiers[tier]
        fill = Fill(held.capacity, held.used, self._leaving_bytes(tier), held.asked)
        held.asked = 0
        return excess(fill, held.rules, keeps_full=held.policy.keeps_full)

    def is_pressed(self, tier: int) -> bool:
        """Whether a pass of eviction has something to do there."""
        held = self._tiers[tier]
        return held.asked > 0 or (not held.policy.keeps_full and held.used > held.capacity * held.rules.high)

    def victims(self, tier: int, need_bytes: int, now_s: float = 0.0) -> tuple[Block, ...]:
        """Evictable blocks of one tier, in the policy's order, that together free ``need_bytes``, as far as there are
        such."""
        names = self._tiers[tier].policy.victims(need_bytes, now_s, busy=self.is_busy)
        return tuple(block for name in names if (block := self.get(name)) is not None)

    def is_busy(self, block_id: str) -> bool:
        """Whether a block that is here may not be evicted now."""
        found = self._blocks[block_id]
        block = found if isinstance(found, Block) else self._awake.get(block_id)
        return block is not None and not block.is_evictable

    def restore(
        self,
        block_id: str,
        length: int,
        tier: int,
        now_s: float = 0.0,
        *,
        dataset: str = "",
        crcs: tuple[int, ...] = (),
    ) -> Block | None:
        """Takes in a sealed block found on disk; ``None`` if it is known already or there is no room."""
        if not self._fits(block_id, length, tier):
            return None
        block = self._add(Block(block_id, tier, length, State.SEALED), dataset, now_s)
        block.crcs = crcs
        self._rest(block)
        return block

    def restore_part(
        self,
        block_id: str,
        geometry: Geometry,
        tier: int,
        now_s: float = 0.0,
        *,
        present: Iterable[int],
        dataset: str = "",
    ) -> Block | None:
        """Takes in a half-filled block found on disk, which misses at least one extent; ``None`` as for ``restore``."""
        if not self._fits(block_id, geometry.length, tier):
            return None
        extents = ExtentSet(geometry)
        for extent in present:
            extents.add(extent)
        return self._add(Block(block_id, tier, geometry.length, State.FILLING, extents=extents), dataset, now_s)

    def _fits(self, block_id: str, length: int, tier: int) -> bool:
        held = self._tiers[tier]
        is_known = block_id in self._blocks or block_id in self._ghosts
        return not is_known and length >= 1 and charge_of(length) <= held.capacity - held.used

    def _add(self, block: Block, dataset: str, now_s: float) -> Block:
        block.dataset = dataset if self._number_of(dataset) else ""
        self._blocks[block.block_id] = block
        self._counts[block.state] += 1
        tier = self._tiers[block.tier]
        tier.used += block.charge
        self._enter(block, now_s)
        return block

    def _enter(self, block: Block, now_s: float) -> None:
        tier = self._tiers[block.tier]
        tier.policy.inserted(block.block_id, block.charge, block.dataset, now_s)
        held = tier.mounts.setdefault(block.dataset, Held())
        held.blocks += 1
        held.used_bytes += block.charge

    def _quit(self, block: Block) -> None:
        tier = self._tiers[block.tier]
        tier.policy.removed(block.block_id)
        held = tier.mounts[block.dataset]
        held.blocks -= 1
        held.used_bytes -= block.charge
        if not held.blocks:
            del tier.mounts[block.dataset]

    # -- what happens to a block

    def landed(self, block: Block, extent: int) -> bool:
        """An extent was written; whether the block is complete now and must be sealed."""
        if block.state is not State.FILLING:
            return False
        extents = block.extents
        extents.add(extent)
        if extents.is_full:
            self._move(block, Event.COMPLETE)
            return True
        return False

    def sealed(self, block: Block, crcs: tuple[int, ...] = ()) -> None:
        """Its file has the name of a complete block."""
        self._move(block, Event.SEAL)
        block.completed()
        block.crcs = crcs
        self._rest(block)

    def leave(self, block: Block) -> None:
        """Evicted, failed or freed: no read finds it any more; its bytes count until ``left``. Not for a block on the
        move: that is abandoned or ended first."""
        if block.moving_to is not None:
            raise ValueError(f"block {block.block_id} is on the move")
        self._move(block, Event.LEAVE)
        self._blocks[block.block_id] = block
        self._leaving.add(block)
        self._quit(block)

    def unnamed(self, block: Block) -> None:
        """Its file is unlinked, but somebody else has it open: the name is free, the bytes are not."""
        if block.state is not State.LEAVING:
            raise ValueError(f"block {block.block_id} is {block.state.value}, not leaving")
        block.held = True
        self._forget_name(block)

    def left(self, block: Block) -> None:
        """Its file is unlinked, and nobody else has it open."""
        if block.state is not State.LEAVING:
            raise ValueError(f"block {block.block_id} is {block.state.value}, not leaving")
        block.unlinked, block.held = True, False
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

    # -- moves between tiers

    def begin_move(self, block: Block, to: int, now_s: float = 0.0) -> bool:
        """Reserves room for a sealed block in another tier; whether there was any and the policy there admits it. Ends
        with ``end_move`` or ``abandon_move``."""
        target = self._tiers[to]
        can = block.state is State.SEALED and block.moving_to is None and block.tier != to
        if not can or not target.in_service or block.charge > target.capacity - target.used:
            return False
        if block.block_id in self._ghosts:
            return False
        if not target.policy.admit(block.block_id, block.charge, block.dataset, now_s).is_admitted:
            return False
        target.used += block.charge
        block.moving_to = to
        block.busy += 1
        return True

    def end_move(self, block: Block, now_s: float = 0.0) -> Block:
        """The copy has its final name: it is the block now. Returns what must leave the old tier."""
        to = self._moved(block)
        ghost = Block(block.block_id, block.tier, block.length, State.LEAVING, dataset=block.dataset)
        self._counts[State.LEAVING] += 1
        self._ghosts[block.block_id] = ghost
        self._leaving.add(ghost)
        self._quit(block)
        block.tier = to
        self._enter(block, now_s)
        self._rest(block)
        return ghost

    def abandon_move(self, block: Block) -> None:
        """The copy failed, and its file is gone: the block stays where it was."""
        self._tiers[self._moved(block)].used -= block.charge

    def _moved(self, block: Block) -> int:
        to = block.moving_to
        if to is None:
            raise ValueError(f"block {block.block_id} is not on the move")
        block.moving_to = None
        block.busy -= 1
        return to

    # -- tier directories

    def retire(self, tier: int, reason: str = "failed") -> None:
        """Takes a tier directory out of service: nothing is admitted to it until every reason has gone."""
        self._tiers[tier].out.add(reason)

    def return_to_service(self, tier: int, reason: str = "failed") -> None:
        """A reason has gone."""
        self._tiers[tier].out.discard(reason)

    def is_in_service(self, tier: int) -> bool:
        """Whether a tier directory takes new blocks."""
        return self._tiers[tier].in_service

    def _move(self, block: Block, event: Event) -> None:
        try:
            state = TRANSITIONS[block.state, event]
        except KeyError as e:
            raise ValueError(f"block {block.block_id}: {event.value} while {block.state.value}") from e
        self._counts[block.state] -= 1
        self._counts[state] += 1
        block.state = state

    def _drop_if_gone(self, block: Block) -> None:
        if not block.unlinked or block.leases:
            return
        self._forget_name(block)
        self._counts[State.LEAVING] -= 1
        self._leaving.discard(block)
        self._tiers[block.tier].used -= block.charge

    def _forget_name(self, block: Block) -> None:
        if self._ghosts.get(block.block_id) is block:
            del self._ghosts[block.block_id]
        elif self._blocks.get(block.block_id) is block:
            del self._blocks[block.block_id]

    # -- packing

    def _rest(self, block: Block) -> None:
        """A sealed block becomes a number; the object lives on while somebody holds it."""
        self._blocks[block.block_id] = _pack(block, self._number_of(block.dataset))
        self._awake[block.block_id] = block

    def _wake(self, block_id: str, packed: int) -> Block:
        block = self._awake.get(block_id)
        if block is None:
            block = _unpack(block_id, packed)
            block.dataset = self._datasets[packed >> _DATASET_AT & 0xFFFF]
            self._awake[block_id] = block
        return block

    def _number_of(self, dataset: str) -> int:
        number = self._dataset_numbers.get(dataset)
        if number is None:
            number = len(self._datasets)
            if number > DATASETS_MAX:
                return 0
            self._datasets.append(dataset)
            self._dataset_numbers[dataset] = number
        return number

    def __iter__(self) -> Iterator[Block]:
        for block_id, found in list(self._blocks.items()):
            yield found if isinstance(found, Block) else self._wake(block_id, found)
        named = {block for block in self._blocks.values() if isinstance(block, Block)}
        yield from [block for block in self._leaving if block not in named]

    def validate(self) -> None:
        """Raises ``AssertionError`` naming the invariant that is broken."""
        blocks = list(self)
        for number, tier in enumerate(self._tiers):
            mine = [block for block in blocks if block.tier == number]
            coming = [block for block in blocks if block.moving_to == number]
            _check(tier.used == sum(block.charge for block in mine + coming), 1, number)
            _check(tier.used <= tier.capacity, 2, number)
            known = {resident.block for resident in tier.policy}
            staying = [block for block in mine if block.state is not State.LEAVING]
            _check(known == {b.block_id for b in staying}, 4, number)
            _check(len(known) == len(tier.policy), 4, number)
            _check(sum(held.blocks for held in tier.mounts.values()) == len(staying), 8, number)
            _check(sum(held.used_bytes for held in tier.mounts.values()) == sum(b.charge for b in staying), 8, number)
        for block in blocks:
            if block.state is State.FILLING:
                _check(not block.extents.is_full, 3, block.block_id)
            if block.state in {State.SEALING, State.SEALED}:
                _check(block.extents.is_full, 3, block.block_id)
            _check(block.leases >= 0 and block.busy >= 0, 5, block.block_id)
            _check(not block.unlinked or block.state is State.LEAVING, 5, block.block_id)
            _check(block.moving_to is None or (block.state is State.SEALED and block.busy > 0), 5, block.block_id)
            _check(not (block.unlinked and block.leases == 0), 6, block.block_id)
        leaving = {b for b in blocks if b.state is State.LEAVING}
        _check(self._leaving == leaving and set(self._ghosts.values()) <= leaving, 7, len(self._leaving))
        named = {*self._ghosts.values(), *(b for b in self._blocks.values() if isinstance(b, Block))}
        _check(not any(b.held for b in named), 7, "held")
        _check(self._counts == {state: sum(b.state is state for b in blocks) for state in State}, 8, "counts")


def _pack(block: Block, dataset: int) -> int:
    """Length, tier, mount and, if they are few, checksums of a sealed block as one number: 48 bytes of heap for one
    checksum."""
    packed = block.length | block.tier << _TIER_AT | dataset << _DATASET_AT
    if 0 < len(block.crcs) <= CRCS_INLINE_MAX:
        packed |= 1 << _HAS_CRCS_AT
        for number, crc in enumerate(block.crcs):
            packed |= crc << _CRCS_AT + 32 * number
    return packed


def _unpack(block_id: str, packed: int) -> Block:
    length = packed & (1 << _TIER_AT) - 1
    block = Block(block_id, packed >> _TIER_AT & 0xFF, length, State.SEALED)
    if packed >> _HAS_CRCS_AT & 1:
        block.has_packed_crcs(packed)
    return block


def _check(holds: bool, number: int, what: object) -> None:
    if not holds:
        raise AssertionError(f"invariant {number} is broken for {what}")
