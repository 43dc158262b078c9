"""How much room a tier directory keeps: watermarks and reserved bytes. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TierRules:
    """``high`` and ``low`` are shares of the capacity: above the one, blocks are evicted in the background down to the
    other. ``reserved_bytes`` stay free of copies that must not cost anybody's place."""

    high: float = 0.95
    low: float = 0.90
    reserved_bytes: int = 0


@dataclass(frozen=True)
class Fill:
    """What a tier directory holds, in bytes. ``going``: the part of ``used`` that leaves by itself; ``asked``: what
    newcomers found no room for since eviction last ran."""

    capacity: int
    used: int
    going: int = 0
    asked: int = 0

    @property
    def free(self) -> int:
        """Bytes that may be taken now."""
        return self.capacity - self.used


def has_room(fill: Fill, size: int, rules: TierRules, *, is_spare: bool = False) -> bool:
    """Whether a block may be written now. ``is_spare``: only beyond the reserved bytes."""
    return fill.free - (rules.reserved_bytes if is_spare else 0) >= size


def excess(fill: Fill, rules: TierRules, *, keeps_full: bool) -> int:
    """Bytes to evict now: always what was asked for; from above the high watermark down to the low one, unless the
    policy is one that keeps its tier full."""
    used = fill.used - fill.going
    lacking = max(0, fill.asked - (fill.capacity - used))
    if keeps_full or (used <= fill.capacity * rules.high and not lacking):
        return lacking
    return max(lacking, used - int(fill.capacity * rules.low))
