"""What to keep and what to let go: the policy interface, and LRU. Pure; one instance per tier directory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Policy(Protocol):
    """Orders the blocks of one tier directory. Ids it does not know are ignored by ``read`` and ``removed``."""

    name: str

    def admits(self, block_id: str) -> bool:
        """Whether a block that is not here may enter by evicting others (a policy may hold what it has)."""

    def added(self, block_id: str) -> None:
        """The block was admitted."""

    def read(self, block_id: str) -> None:
        """The block was read here, or a touch report says that it was read elsewhere."""

    def removed(self, block_id: str) -> None:
        """The block left, for whatever reason."""

    def victims(self) -> Iterator[str]:
        """All blocks, the first to evict first. The caller skips those that it may not evict; the policy must not
        be changed while it iterates."""

    def __len__(self) -> int:
        """Blocks that the policy knows."""


class Lru:
    """Evicts what was read longest ago. A dict keeps insertion order: a read moves its block to the end."""

    name = "lru"

    def __init__(self) -> None:
        self._order: dict[str, None] = {}

    def admits(self, block_id: str) -> bool:
        """Always: whatever is read now is worth more than what was read before it."""
        return block_id not in self._order

    def added(self, block_id: str) -> None:
        """The newest of all."""
        self._order[block_id] = None

    def read(self, block_id: str) -> None:
        """Moves it to the young end."""
        if block_id in self._order:
            del self._order[block_id]
            self._order[block_id] = None

    def removed(self, block_id: str) -> None:
        """Forgets it."""
        self._order.pop(block_id, None)

    def victims(self) -> Iterator[str]:
        """From the one read longest ago."""
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


POLICIES: dict[str, type[Lru]] = {"lru": Lru}
"""Policies by the name of the ``policy`` setting."""
