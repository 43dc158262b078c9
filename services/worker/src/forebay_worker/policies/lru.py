"""LRU and FIFO: one order, from the first to go to the last; LRU moves what is read to the end."""

from __future__ import annotations

from collections.abc import Iterator

from forebay_worker.policies.chain import Chain
from forebay_worker.policies.protocol import ADMITTED, Admission, Busy
from forebay_worker.policies.slots import Resident, Slots


class Fifo:
    """Evicts what came first."""

    name = "fifo"
    keeps_full = False

    def __init__(self, capacity_bytes: int = 0) -> None:
        self.slots = Slots()
        self._order = Chain()

    def inserted(self, block: str, size: int, dataset: str, now_s: float) -> None:
        """The newest of all."""
        self._order.append(self.slots.add(block, size, dataset, now_s))

    def touched(self, block: str, now_s: float, dataset: str = "") -> None:
        """Changes nothing in the order."""
        slot = self.slots.get(block)
        if slot is not None:
            self.slots.mark(slot, now_s)
            self.slots.adopt(slot, dataset)

    def removed(self, block: str) -> None:
        """Forgets it."""
        slot = self.slots.drop(block)
        if slot is not None:
            self._order.remove(slot)

    def admit(self, block: str, size: int, dataset: str, now_s: float) -> Admission:
        """Always: whatever is read now is worth more than what came before it."""
        return ADMITTED

    def spare(self, datasets: frozenset[str]) -> None:
        """Pinned blocks keep their place in the order and are passed over."""

    def victims(self, wanted_bytes: int, now_s: float, *, busy: Busy) -> list[str]:
        """From the front of the order."""
        chosen: list[str] = []
        for slot in self._order:
            if wanted_bytes <= 0:
                break
            block = self.slots.block(slot)
            if not busy(block):
                chosen.append(block)
                wanted_bytes -= self.slots.size(slot)
        return chosen

    def __iter__(self) -> Iterator[Resident]:
        return map(self.slots.resident, self._order)

    def __contains__(self, block: object) -> bool:
        return block in self.slots

    def __len__(self) -> int:
        return len(self.slots)


class Lru(Fifo):
    """Evicts what was read longest ago."""

    name = "lru"

    def touched(self, block: str, now_s: float, dataset: str = "") -> None:
        """Moves it to the young end."""
        slot = self.slots.get(block)
        if slot is not None:
            self.slots.mark(slot, now_s)
            self.slots.adopt(slot, dataset)
            self._order.remove(slot)
            self._order.append(slot)
