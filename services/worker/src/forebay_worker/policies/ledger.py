"""Rules of mounts, and what each mount takes of a worker, in all its tier directories together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MountRules:
    """``is_pinned``: never evicted. ``ttl_s``: a block not read for that long leaves. ``quota_bytes``: what this worker
    keeps of the mount at most. ``None``: no limit."""

    is_pinned: bool = False
    ttl_s: float | None = None
    quota_bytes: int | None = None


NO_RULES = MountRules()


class Ledger:
    """Rules and sums by dataset; the tier directories of a worker share one. ``set_rules`` says all that there are:
    a mount without is unmounted, once there were any."""

    def __init__(self) -> None:
        self._rules: dict[str, MountRules] = {}
        self._held: dict[str, int] = {}
        self._dropped: set[str] = set()

    def set_rules(self, rules: Mapping[str, MountRules]) -> None:
        """Takes the mounts as they are now. What was pinned and is not any more, or is mounted no longer, may go
        first."""
        for dataset, old in self._rules.items():
            new = rules.get(dataset)
            if new is None or (old.is_pinned and not new.is_pinned):
                self._dropped.add(dataset)
        self._rules = dict(rules)
        self._dropped = {name for name in self._dropped if self._held.get(name) and not self.of(name).is_pinned}

    def of(self, dataset: str) -> MountRules:
        """The mount's rules."""
        return self._rules.get(dataset, NO_RULES)

    def came(self, dataset: str, size: int) -> None:
        """A block of the mount takes room."""
        self._held[dataset] = self._held.get(dataset, 0) + size

    def went(self, dataset: str, size: int) -> None:
        """It takes none any more."""
        left = self._held.get(dataset, 0) - size
        if left > 0:
            self._held[dataset] = left
        else:
            self._held.pop(dataset, None)
            self._dropped.discard(dataset)

    def held(self, dataset: str) -> int:
        """Bytes that the mount takes."""
        return self._held.get(dataset, 0)

    def is_over(self, dataset: str, more: int = 0) -> bool:
        """Whether the mount would take more than its quota."""
        quota = self.of(dataset).quota_bytes
        return quota is not None and self.held(dataset) + more > quota

    def goes_first(self, dataset: str) -> bool:
        """Whether the mount lost its pin, or is gone."""
        return dataset in self._dropped

    @property
    def pinned(self) -> frozenset[str]:
        """Mounts whose blocks are never evicted."""
        return frozenset(name for name, rules in self._rules.items() if rules.is_pinned)

    @property
    def has_limits(self) -> bool:
        """Whether any rule makes blocks leave by themselves."""
        rules = self._rules.values()
        return bool(self._dropped) or any(r.ttl_s is not None or r.quota_bytes is not None for r in rules)
