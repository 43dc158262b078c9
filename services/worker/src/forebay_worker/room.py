"""Capacity of one tier directory: who takes it, who was refused for want of it, and what must be evicted. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from forebay_worker.block import Block
from forebay_worker.policies import Policy
from forebay_worker.policies.rules import Fill, TierRules, excess, has_room


@dataclass
class Held:
    """What one mount has in one tier directory."""

    blocks: int = 0
    used_bytes: int = 0


@dataclass
class TierRoom:
    """One tier directory of the index. ``out``: reasons why it takes no new blocks. ``asked``: bytes that found no room
    since the last pass of eviction."""

    capacity: int
    policy: Policy
    used: int = 0
    out: set[str] = field(default_factory=set)
    mounts: dict[str, Held] = field(default_factory=dict)
    rules: TierRules = field(default_factory=TierRules)
    asked: int = 0

    @property
    def in_service(self) -> bool:
        """Whether it takes new blocks."""
        return not self.out

    @property
    def free(self) -> int:
        """Bytes that nobody takes."""
        return self.capacity - self.used

    @property
    def is_pressed(self) -> bool:
        """Whether a pass of eviction has something to do."""
        return self.asked > 0 or (not self.policy.keeps_full and self.used > self.capacity * self.rules.high)

    def has_room(self, charge: int, *, is_spare: bool = False) -> bool:
        """Whether a block may be admitted now; ``is_spare``: beyond the reserved bytes."""
        return has_room(Fill(self.capacity, self.used, asked=self.asked), charge, self.rules, is_spare=is_spare)

    def take_excess(self, leaving_bytes: int) -> int:
        """Bytes to evict in the background now; see ``policies.rules``. What was asked for counts once."""
        fill = Fill(self.capacity, self.used, leaving_bytes, self.asked)
        self.asked = 0
        return excess(fill, self.rules, keeps_full=self.policy.keeps_full)

    def enter(self, block: Block, now_s: float) -> None:
        """The policy and the mount's sums learn of a block."""
        self.policy.inserted(block.block_id, block.charge, block.dataset, now_s)
        held = self.mounts.setdefault(block.dataset, Held())
        held.blocks += 1
        held.used_bytes += block.charge

    def quit(self, block: Block) -> None:
        """They forget it."""
        self.policy.removed(block.block_id)
        held = self.mounts[block.dataset]
        held.blocks -= 1
        held.used_bytes -= block.charge
        if not held.blocks:
            del self.mounts[block.dataset]
