"""2-random: of two blocks drawn at random, the one read longer ago goes."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator

from forebay_worker.policies.protocol import ADMITTED, Admission, Busy
from forebay_worker.policies.slots import Resident, Slots

DRAWS_MAX = 64
"""Draws that may find nobody in a row; then all blocks are looked at in turn."""

TICK_MASK = 0xFFFF_FFFF


class Random2:
    """Needs no order: a tick of the last read for each block."""

    name = "random-2"
    keeps_full = False

    def __init__(self, capacity_bytes: int = 0, rng: random.Random | None = None) -> None:
        self.slots = Slots()
        self._read_at = array("I")
        self._tick = 0
        self._rng = rng or random.Random(0)

    def inserted(self, block: str, size: int, dataset: str, now_s: float) -> None:
        """Counts as read now."""
        slot = self.slots.add(block, size, dataset, now_s)
        if slot == len(self._read_at):
            self._read_at.append(0)
        self._mark(slot)

    def touched(self, block: str, now_s: float, dataset: str = "") -> None:
        """Read now."""
        slot = self.slots.get(block)
        if slot is not None:
            self.slots.mark(slot, now_s)
            self.slots.adopt(slot, dataset)
            self._mark(slot)

    def _mark(self, slot: int) -> None:
        self._tick = (self._tick + 1) & TICK_MASK
        self._read_at[slot] = self._tick

    def removed(self, block: str) -> None:
        """Forgets it."""
        self.slots.drop(block)

    def admit(self, block: str, size: int, dataset: str, now_s: float) -> Admission:
        """Always."""
        return ADMITTED

    def spare(self, datasets: frozenset[str]) -> None:
        """Pinned blocks keep their place in the order and are passed over."""

    def victims(self, wanted_bytes: int, now_s: float, *, busy: Busy) -> list[str]:
        """Pairs are drawn until enough is found."""
        chosen: dict[str, None] = {}
        while wanted_bytes > 0:
            pair = [self._draw(chosen, busy), self._draw(chosen, busy)]
            able = [slot for slot in pair if slot is not None]
            if not able:
                break
            slot = max(able, key=self._age)
            chosen[self.slots.block(slot)] = None
            wanted_bytes -= self.slots.size(slot)
        return list(chosen)

    def _age(self, slot: int) -> int:
        return (self._tick - self._read_at[slot]) & TICK_MASK

    def _draw(self, chosen: dict[str, None], busy: Busy) -> int | None:
        for _ in range(DRAWS_MAX):
            slot = self.slots.any(self._rng)
            if slot is not None and not self._is_out(slot, chosen, busy):
                return slot
        return next((slot for slot in self.slots if not self._is_out(slot, chosen, busy)), None)

    def _is_out(self, slot: int, chosen: dict[str, None], busy: Busy) -> bool:
        block = self.slots.block(slot)
        return block in chosen or busy(block)

    def __iter__(self) -> Iterator[Resident]:
        return map(self.slots.resident, sorted(self.slots, key=self._age, reverse=True))

    def __contains__(self, block: object) -> bool:
        return block in self.slots

    def __len__(self) -> int:
        return len(self.slots)
