"""Blocks as small numbers, so that what a policy knows of each lies in arrays: bytes per block, not objects.

A slot costs its place in the dict, the number and a list entry (80 to 120 bytes, by how full the dict is) and 10 bytes
of facts; freed slots are used again.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from typing import NamedTuple

UNIT = 4096
"""Sizes are kept in pages, rounded up: four bytes reach to 16 TiB."""

DATASETS_MAX = 65_535
"""Datasets that are told apart; what comes after is taken for one more."""


class Resident(NamedTuple):
    """A block that a policy knows. ``dataset`` is the mount it was read through; "" until that is known."""

    block: str
    size: int
    dataset: str


class Slots:
    """Numbers for blocks, with size and dataset of each. ``capacity`` is how many numbers were ever given out."""

    def __init__(self) -> None:
        self._slot: dict[str, int] = {}
        self._blocks: list[str | None] = []
        self._pages = array("I")
        self._dataset = array("H")
        self._read_s = array("I")
        self._free = array("I")
        self._names: list[str] = [""]
        self._numbers: dict[str, int] = {"": 0}
        self.used_pages = 0

    def add(self, block: str, size: int, dataset: str, now_s: float) -> int:
        """A slot for a block that has none."""
        slot = self._free.pop() if self._free else self._grow()
        pages = -(-size // UNIT)
        self._blocks[slot] = block
        self._pages[slot] = pages
        self._dataset[slot] = self.dataset_number(dataset)
        self._slot[block] = slot
        self.mark(slot, now_s)
        self.used_pages += pages
        return slot

    def _grow(self) -> int:
        self._blocks.append(None)
        self._pages.append(0)
        self._dataset.append(0)
        self._read_s.append(0)
        return len(self._blocks) - 1

    def get(self, block: str) -> int | None:
        """The block's slot."""
        return self._slot.get(block)

    def drop(self, block: str) -> int | None:
        """Frees the block's slot and returns it; what lies in others' arrays for it is theirs to forget."""
        slot = self._slot.pop(block, None)
        if slot is not None:
            self.used_pages -= self._pages[slot]
            self._blocks[slot] = None
            self._free.append(slot)
        return slot

    def block(self, slot: int) -> str:
        """The block of a slot that is taken."""
        block = self._blocks[slot]
        if block is None:
            raise ValueError(f"slot {slot} is free")
        return block

    def is_taken(self, slot: int) -> bool:
        """Whether a block has this number."""
        return self._blocks[slot] is not None

    def size(self, slot: int) -> int:
        """Bytes of the block, in whole pages."""
        return self._pages[slot] * UNIT

    def dataset_number(self, dataset: str) -> int:
        """A small number for a dataset's name, new or known."""
        number = self._numbers.get(dataset)
        if number is None:
            number = min(len(self._names), DATASETS_MAX)
            if number == len(self._names):
                self._names.append(dataset)
                self._numbers[dataset] = number
        return number

    def dataset_of(self, slot: int) -> int:
        """The number of the block's dataset; 0 if it is not known."""
        return self._dataset[slot]

    def mark(self, slot: int, now_s: float) -> None:
        """The block is read now; whole seconds are kept."""
        self._read_s[slot] = int(now_s) & 0xFFFF_FFFF

    def read_at_s(self, slot: int) -> int:
        """When the block was read last, by the caller's clock."""
        return self._read_s[slot]

    def dataset_name(self, slot: int) -> str:
        """The block's dataset; "" if it is not known."""
        return self._names[self._dataset[slot]]

    def adopt(self, slot: int, dataset: str) -> bool:
        """Gives a dataset to a block that has none; whether it did."""
        if self._dataset[slot] or not dataset:
            return False
        self._dataset[slot] = self.dataset_number(dataset)
        return True

    def resident(self, slot: int) -> Resident:
        """All facts of a slot that is taken."""
        return Resident(self.block(slot), self.size(slot), self._names[self._dataset[slot]])

    def any(self, rng: random.Random) -> int | None:
        """A slot at random, or ``None`` if the one drawn is free."""
        if not self._blocks:
            return None
        slot = int(rng.random() * len(self._blocks))
        return None if self._blocks[slot] is None else slot

    @property
    def used_bytes(self) -> int:
        """Sizes of all blocks, in whole pages."""
        return self.used_pages * UNIT

    @property
    def capacity(self) -> int:
        """Numbers ever given out: how long a parallel array must be."""
        return len(self._blocks)

    def __contains__(self, block: object) -> bool:
        return block in self._slot

    def __iter__(self) -> Iterator[int]:
        return iter(self._slot.values())

    def __len__(self) -> int:
        return len(self._slot)
