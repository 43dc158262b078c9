"""Reference models of the policies: lists and dicts, as slow and plain as can be."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Model:
    """Blocks with their sizes, the first to come first."""

    sizes: dict[str, int] = field(default_factory=dict)

    def inserted(self, block: str, size: int) -> None:
        self.sizes[block] = size

    def touched(self, block: str) -> None:
        """FIFO: nothing."""

    def removed(self, block: str) -> None:
        self.sizes.pop(block, None)

    def order(self) -> list[str]:
        return list(self.sizes)

    def victims(self, wanted: int, busy: set[str]) -> list[str]:
        chosen = []
        for block in self.order():
            if wanted <= 0:
                break
            if block not in busy:
                chosen.append(block)
                wanted -= self.sizes[block]
        return chosen


class LruModel(Model):
    def touched(self, block: str) -> None:
        if block in self.sizes:
            self.sizes[block] = self.sizes.pop(block)


@dataclass
class LfuModel(Model):
    reads: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    now: int = 0

    def inserted(self, block: str, size: int) -> None:
        super().inserted(block, size)
        self.now += 1
        self.reads[block], self.last[block] = 1, self.now

    def touched(self, block: str) -> None:
        if block in self.sizes:
            self.now += 1
            self.reads[block] += 1
            self.last[block] = self.now

    def order(self) -> list[str]:
        return sorted(self.sizes, key=lambda block: (self.reads[block], self.last[block]))


@dataclass
class SieveModel(Model):
    """``hand`` is the block to look at next; ``None``: the oldest."""

    bits: dict[str, bool] = field(default_factory=dict)
    hand: str | None = None

    def inserted(self, block: str, size: int) -> None:
        super().inserted(block, size)
        self.bits[block] = False

    def touched(self, block: str) -> None:
        if block in self.sizes:
            self.bits[block] = True

    def removed(self, block: str) -> None:
        if block in self.sizes and self.hand == block:
            self.hand = self.following(block)
        super().removed(block)

    def following(self, block: str) -> str | None:
        queue = list(self.sizes)
        place = queue.index(block) + 1
        return queue[place] if place < len(queue) else None

    def victims(self, wanted: int, busy: set[str]) -> list[str]:
        chosen: list[str] = []
        for _ in range(2 * len(self.sizes)):
            if wanted <= 0:
                break
            block = self.hand or next(iter(self.sizes))
            self.hand = self.following(block)
            if self.bits[block]:
                self.bits[block] = False
            elif block not in chosen and block not in busy:
                chosen.append(block)
                wanted -= self.sizes[block]
        return chosen
