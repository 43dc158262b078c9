"""SIEVE: a queue, one bit for each block, and a hand that spares and clears (Zhang et al., "SIEVE is simpler than LRU",
NSDI 2024). The hand goes from the oldest to the newest and begins anew at the oldest."""

from __future__ import annotations

from forebay_worker.policies.chain import END
from forebay_worker.policies.lru import Fifo
from forebay_worker.policies.protocol import Busy


class Sieve(Fifo):
    """A read sets the block's bit and moves nothing."""

    name = "sieve"

    def __init__(self, capacity_bytes: int = 0) -> None:
        super().__init__(capacity_bytes)
        self._visited = bytearray()
        self._hand = END

    def inserted(self, block: str, size: int, dataset: str, now_s: float) -> None:
        """The newest, its bit clear."""
        super().inserted(block, size, dataset, now_s)
        slot = self._order.last
        if slot == len(self._visited):
            self._visited.append(0)
        self._visited[slot] = 0

    def touched(self, block: str, now_s: float, dataset: str = "") -> None:
        """Will be spared once."""
        slot = self.slots.get(block)
        if slot is not None:
            self.slots.mark(slot, now_s)
            self.slots.adopt(slot, dataset)
            self._visited[slot] = 1

    def removed(self, block: str) -> None:
        """Forgets it; a hand that pointed there goes on."""
        slot = self.slots.get(block)
        if slot is not None and slot == self._hand:
            self._hand = self._order.after(slot)
        super().removed(block)

    def victims(self, wanted_bytes: int, now_s: float, *, busy: Busy) -> list[str]:
        """The hand moves on for each; it has gone round twice before it gives up (the first round clears bits)."""
        chosen: dict[str, None] = {}
        for _ in range(2 * len(self.slots)):
            if wanted_bytes <= 0:
                break
            slot = self._hand if self._hand != END else self._order.first
            self._hand = self._order.after(slot)
            block = self.slots.block(slot)
            if self._visited[slot]:
                self._visited[slot] = 0
            elif block not in chosen and not busy(block):
                chosen[block] = None
                wanted_bytes -= self.slots.size(slot)
        return list(chosen)
