"""LFU: evicts what was read least often since it came, of those what was read longest ago. Every step O(1): the chain
is ordered by count, and the last block of each count is known."""

from __future__ import annotations

from array import array

from forebay_worker.policies.chain import END
from forebay_worker.policies.lru import Fifo

COUNT_MAX = 0xFFFF_FFFF


class Lfu(Fifo):
    """Counts reads. ``_last`` is the last slot of the chain with that count."""

    name = "lfu"

    def __init__(self, capacity_bytes: int = 0) -> None:
        super().__init__(capacity_bytes)
        self._count = array("I")
        self._last: dict[int, int] = {}

    def inserted(self, block: str, size: int, dataset: str, now_s: float) -> None:
        """Counts as read once."""
        slot = self.slots.add(block, size, dataset, now_s)
        if slot == len(self._count):
            self._count.append(0)
        self._count[slot] = 1
        self._order.insert_after(self._last.get(1, END), slot)
        self._last[1] = slot

    def touched(self, block: str, now_s: float, dataset: str = "") -> None:
        """Behind the last one with one more read, or with as many."""
        slot = self.slots.get(block)
        if slot is None:
            return
        self.slots.mark(slot, now_s)
        self.slots.adopt(slot, dataset)
        count = self._count[slot]
        if count == COUNT_MAX:
            return
        place = self._last.get(count + 1, self._last[count])
        if place == slot:
            place = self._order.before(slot)
        self._unchain(slot)
        self._order.insert_after(place, slot)
        self._count[slot] = count + 1
        self._last[count + 1] = slot

    def removed(self, block: str) -> None:
        """Forgets it and its count."""
        slot = self.slots.drop(block)
        if slot is not None:
            self._unchain(slot)

    def _unchain(self, slot: int) -> None:
        count, before = self._count[slot], self._order.before(slot)
        if self._last[count] == slot:
            if before != END and self._count[before] == count:
                self._last[count] = before
            else:
                del self._last[count]
        self._order.remove(slot)
