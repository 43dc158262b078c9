"""LRU and FIFO: one order, from the first to go to the last; LRU moves what is read to the end."""

from __future__ import annotations

from collections.abc import Iterator

from forebay_worker.policies.chain import Chain
from forebay_worker.policies.protocol import ADMITTED, Admission, Busy, Resident
from forebay_worker.policies.slots import Slots


class Fifo:
    """Evicts what came first."""

    name = "fifo"
    keeps_full = False

    def __init__(self, capacity_bytes: int = 0) -> None:
        self._slots = Slots()
        self._order = Chain()

    def inserted(self, block: str, size: int, dataset: str, now_s: float) -> None:
        """The newest of all."""
        self._order.append(self._slots.add(block, size, dataset))

    def touched(self, block: str, now_s: float, dataset: str = "") -> None:
        """Changes nothing."""
        slot = self._slots.get(block)
        if slot is not None:
            self._slots.adopt(slot, dataset)

    def removed(self, block: str) -> None:
        """Forgets it."""
        slot = self._slots.drop(block)
        if slot is not None:
            self._order.remove(slot)

    def admit(self, block: str, size: int, dataset: str, now_s: float) -> Admission:
        """Always: whatever is read now is worth more than what came before it."""
        return ADMITTED

    def victims(self, wanted_bytes: int, now_s: float, *, busy: Busy) -> list[str]:
        """From the front of the order."""
        chosen: list[str] = []
        for slot in self._order:
            if wanted_bytes <= 0:
                break
            block = self._slots.block(slot)
            if not busy(block):
                chosen.append(block)
                wanted_bytes -= self._slots.size(slot)
        return chosen

    def __iter__(self) -> Iterator[Resident]:
        return map(self._slots.resident, self._order)

    def __contains__(self, block: object) -> bool:
        return block in self._slots

    def __len__(self) -> int:
        return len(self._slots)


class Lru(Fifo):
    """Evicts what was read longest ago."""

    name = "lru"

    def touched(self, block: str, now_s: float, dataset: str = "") -> None:
        """Moves it to the young end."""
        slot = self._slots.get(block)
        if slot is not None:
            self._slots.adopt(slot, dataset)
            self._order.remove(slot)
            self._order.append(slot)
