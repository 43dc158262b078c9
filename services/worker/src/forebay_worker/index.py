"""The store's index: which blocks are here, in which state, and who owns every byte of capacity.

Pure: it decides and counts; ``store.Store`` does. ``block`` has a block's life.

Capacity is reserved for the whole block when its fill starts, so that a fill never runs out of room half-way, and is
given back when the file is unlinked, nobody has it open any more, *and* the last lease (a read that holds the mapping)
has ended.

A worker may hold a million small blocks, so a sealed block that nobody uses is one packed number (``block.pack``) and
not an object: 48 bytes instead of some 250. ``Block`` objects of sealed blocks are made when they are asked for and
live as long as somebody holds them; whoever asks meanwhile gets the same object.

A move between tiers (promotion, demotion) reserves room in the new tier first; when the copy has its final name there,
``end_move`` makes it the block, and what is left in the old tier becomes a *ghost*: a LEAVING block of the same id
whose bytes count until its file is gone. While there is a ghost, the id is not admitted anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from weakref import WeakValueDictionary

from forebay_worker.block import TRANSITIONS, Block, Event, State, charge_of, dataset_of, pack, tier_of, unpack
from forebay_worker.extents import ExtentSet, Geometry
from forebay_worker.policies import Policy
from forebay_worker.policies.rules import TierRules
from forebay_worker.room import Held, TierRoom

DATASETS_MAX = 65_535
"""Mounts that are told apart in figures; blocks of further ones count under no name."""


@dataclass(frozen=True)
class Reserved:
    """The block may be filled."""

    block: Block


@dataclass(frozen=True)
class Refused:
    """The policy does not want it, there is no room now, or it is just leaving: serve the read without caching.
    ``reason`` is a label."""

    reason: str


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
        self._tiers = [TierRoom(capacity, policy) for capacity, policy in tiers]
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
            if not isinstance(found, Block) and tier_of(found) == tier:
                mine.append(block_id)
        return mine

    def ids(self, tier: int) -> list[str]:
        """Ids of all blocks that have, or are about to get, a file in one tier directory; ghosts not included."""
        moving = [block for block in self._awake.values() if block.moving_to == tier]
        mine = [i for i, b in self._blocks.items() if (b.tier if isinstance(b, Block) else tier_of(b)) == tier]
        return [*mine, *(block.block_id for block in moving)]

    def is_known(self, block_id: str, tier: int) -> bool:
        """Whether a file of this block in this tier directory is the index's, in whatever state."""
        ghost = self._ghosts.get(block_id)
        found = self._blocks.get(block_id)
        if isinstance(found, Block):
            places = {found.tier, found.moving_to}
        else:
            awake = self._awake.get(block_id)
            places = set() if found is None else {tier_of(found), awake.moving_to if awake else None}
        return tier in places or (ghost is not None and ghost.tier == tier)

    def is_at(self, block: Block, tier: int) -> bool:
        """Whether this is (still) the sealed block of its id, in this tier directory."""
        return block.state is State.SEALED and block.tier == tier and self.get(block.block_id) is block

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
            if is_spare and not tier.has_room(charge, is_spare=True):
                reason = "reserved"
                continue
            admission = tier.policy.admit(block_id, charge, dataset, now_s)
            if not admission.is_admitted:
                reason = admission.reason
            elif tier.has_room(charge):
                tier.asked += 0 if is_spare else admission.evict_bytes
                block = Block(block_id, number, geometry.length, State.FILLING, extents=ExtentSet(geometry))
                return Reserved(self._add(block, dataset, now_s))
            elif not is_spare:
                pressed, reason = tier, "full"
                tier.asked = max(tier.asked, admission.evict_bytes)  # what it wants to let go of, whoever takes this
        if pressed is not None:
            pressed.asked = max(pressed.asked, charge)
        return Refused(reason)

    def ask_room(self, wanted_bytes: int) -> bool:
        """Asks the slowest tier in service to have so much room, unless there is as much in one; whether it was asked.
        What leaves by itself already counts."""
        able = [number for number, tier in enumerate(self._tiers) if tier.in_service]
        if not able or any(self._tiers[n].free + self._leaving_bytes(n) >= wanted_bytes for n in able):
            return False
        last = self._tiers[able[-1]]
        last.asked = max(last.asked, min(wanted_bytes, last.capacity))
        return True

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
        """Bytes to evict in the background now. What was asked for counts once."""
        return self._tiers[tier].take_excess(self._leaving_bytes(tier))

    def is_pressed(self, tier: int) -> bool:
        """Whether a pass of eviction has something to do there."""
        return self._tiers[tier].is_pressed

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
        return not is_known and length >= 1 and charge_of(length) <= held.free

    def _add(self, block: Block, dataset: str, now_s: float) -> Block:
        block.dataset = dataset if self._number_of(dataset) else ""
        self._blocks[block.block_id] = block
        self._counts[block.state] += 1
        tier = self._tiers[block.tier]
        tier.used += block.charge
        tier.enter(block, now_s)
        return block

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
        self._tiers[block.tier].quit(block)

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
        if not can or not target.in_service or block.charge > target.free:
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
        self._tiers[block.tier].quit(block)
        block.tier = to
        self._tiers[to].enter(block, now_s)
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
        self._blocks[block.block_id] = pack(block, self._number_of(block.dataset))
        self._awake[block.block_id] = block

    def _wake(self, block_id: str, packed: int) -> Block:
        block = self._awake.get(block_id)
        if block is None:
            block = unpack(block_id, packed)
            block.dataset = self._datasets[dataset_of(packed)]
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


def _check(holds: bool, number: int, what: object) -> None:
    if not holds:
        raise AssertionError(f"invariant {number} is broken for {what}")
