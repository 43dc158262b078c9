"""One block of the index: where it is in its life, what it takes, and its form as one packed number. Pure.

A block's life is the table ``TRANSITIONS``::

    (absent) --reserve--> FILLING --complete--> SEALING --sealed--> SEALED
                             |                     |                   |
                             +-----evict/fail------+-------------------+--> LEAVING --left--> (absent)
"""

from __future__ import annotations

from enum import Enum

from forebay.contracts.records import EXTENT_SIZE
from forebay_worker.extents import ExtentSet, Geometry

CHARGE_UNIT = 4096
"""Files occupy whole pages; a block is charged for them."""

CRCS_INLINE_MAX = 4
"""Checksums that the index itself keeps: those of blocks under 16 MiB; larger ones have a sidecar."""

_TIER_AT, _DATASET_AT, _HAS_CRCS_AT, _CRCS_AT = 48, 56, 72, 73
_DATASET_MASK, _TIER_MASK = 0xFFFF, 0xFF


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


def pack(block: Block, dataset: int) -> int:
    """Length, tier, mount and, if they are few, checksums of a sealed block as one number: 48 bytes of heap for one
    checksum."""
    packed = block.length | block.tier << _TIER_AT | dataset << _DATASET_AT
    if 0 < len(block.crcs) <= CRCS_INLINE_MAX:
        packed |= 1 << _HAS_CRCS_AT
        for number, crc in enumerate(block.crcs):
            packed |= crc << _CRCS_AT + 32 * number
    return packed


def unpack(block_id: str, packed: int) -> Block:
    length = packed & (1 << _TIER_AT) - 1
    block = Block(block_id, tier_of(packed), length, State.SEALED)
    if packed >> _HAS_CRCS_AT & 1:
        block.has_packed_crcs(packed)
    return block


def tier_of(packed: int) -> int:
    """The tier directory of a packed block."""
    return packed >> _TIER_AT & _TIER_MASK


def dataset_of(packed: int) -> int:
    """The number of a packed block's mount."""
    return packed >> _DATASET_AT & _DATASET_MASK
