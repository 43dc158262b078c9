"""A policy under the rules of mounts: pins, times to live, quotas, and blocks that are to go before all others.

What the policy orders is how blocks compete for room; this says which do not compete at all. It is a policy itself, so
the store knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from forebay_worker.policies.hold import Hold
from forebay_worker.policies.ledger import Ledger
from forebay_worker.policies.protocol import Admission, Busy, Policy
from forebay_worker.policies.slots import Resident, Slots

FIRST_MAX = 65_536
"""Blocks that are remembered as the first to go; more than these compete like others."""

SWEEP_SLOTS = 8192
"""Blocks that one step of a sweep looks at (some milliseconds)."""


class Governed:
    """``inner`` decides about room; ``ledger`` is shared by the tier directories of a worker. ``soon`` has the blocks
    that are about to be read: they get in, and nothing evicts them."""

    def __init__(self, inner: Policy, ledger: Ledger, soon: Container[str] = frozenset()) -> None:
        self._inner = inner
        self._ledger = ledger
        self._soon = soon
        self._first: dict[str, None] = {}
        self._swept = 0

    @property
    def name(self) -> str:
        """The policy that decides."""
        return self._inner.name

    @property
    def keeps_full(self) -> bool:
        """As the policy that decides."""
        return self._inner.keeps_full

    @property
    def slots(self) -> Slots:
        """Of the policy that decides."""
        return self._inner.slots

    def inserted(self, block: str, size: int, dataset: str, now_s: float) -> None:
        """Counts for its mount."""
        self._inner.inserted(block, size, dataset, now_s)
        self._ledger.came(dataset, size)

    def touched(self, block: str, now_s: float, dataset: str = "") -> None:
        """A block that was to go first and is read competes again."""
        slot = self.slots.get(block)
        if slot is None:
            return
        self._first.pop(block, None)
        before = self.slots.dataset_of(slot)
        self._inner.touched(block, now_s, dataset)
        if self.slots.dataset_of(slot) != before:
            self._ledger.went("", self.slots.size(slot))
            self._ledger.came(self.slots.dataset_name(slot), self.slots.size(slot))

    def removed(self, block: str) -> None:
        """Gives back what it counted."""
        slot = self.slots.get(block)
        if slot is None:
            return
        self._first.pop(block, None)
        self._ledger.went(self.slots.dataset_name(slot), self.slots.size(slot))
        self._inner.removed(block)

    def admit(self, block: str, size: int, dataset: str, now_s: float) -> Admission:
        """A mount at its quota takes no more; what is pinned gets in whatever the policy says; blocks that may go
        before all others make room for everybody; what is about to be read gets in as well."""
        asked = self._inner.admit(block, size, dataset, now_s)
        if self._ledger.is_over(dataset, size):
            return Admission(False, "quota")
        if not asked.is_admitted and (self._ledger.of(dataset).is_pinned or self._first or block in self._soon):
            return Admission(True, evict_bytes=size)
        return asked

    def victims(self, wanted_bytes: int, now_s: float, *, busy: Busy) -> list[str]:
        """First what is to go first, then by the policy; never what is pinned or about to be read."""
        chosen: dict[str, None] = {}
        for block in self._first:
            if wanted_bytes <= 0:
                break
            if not busy(block) and not self._is_kept(block):
                chosen[block] = None
                wanted_bytes -= self._size(block)
        if wanted_bytes > 0:

            def out(block: str) -> bool:
                return block in chosen or self._is_kept(block) or busy(block)

            chosen |= dict.fromkeys(self._inner.victims(wanted_bytes, now_s, busy=out))
        return list(chosen)

    def _is_kept(self, block: str) -> bool:
        return block in self._soon or self._is_pinned(block)

    def _is_pinned(self, block: str) -> bool:
        slot = self.slots.get(block)
        return slot is not None and self._ledger.of(self.slots.dataset_name(slot)).is_pinned

    def _size(self, block: str) -> int:
        slot = self.slots.get(block)
        return 0 if slot is None else self.slots.size(slot)

    # -- what leaves by itself

    def first_of(self, dataset: str) -> list[str]:
        """Blocks of a dataset that go before all others."""
        slots = self.slots
        places = ((block, slots.get(block)) for block in self._first)
        return [block for block, slot in places if slot is not None and slots.dataset_name(slot) == dataset]

    def goes_first(self, block: str) -> None:
        """Nobody will want the block any more (an older version of its file): it goes before all others."""
        if block in self._inner and len(self._first) < FIRST_MAX:
            self._first[block] = None

    def sweep(self, now_s: float, *, busy: Busy) -> list[tuple[str, str]]:
        """One step around all blocks: those that must leave now, and the cause (``ttl`` or ``quota``). Notes on the
        way which ones may go first."""
        leaving: list[tuple[str, str]] = []
        if not self._ledger.has_limits:
            return leaving
        over: dict[str, int] = {}
        for slot in self._next_slots():
            block, dataset = self.slots.block(slot), self.slots.dataset_name(slot)
            rules = self._ledger.of(dataset)
            if rules.is_pinned or busy(block):
                continue
            if rules.ttl_s is not None and now_s - self.slots.read_at_s(slot) > rules.ttl_s:
                leaving.append((block, "ttl"))
            elif self._ledger.is_over(dataset, -over.get(dataset, 0)):
                over[dataset] = over.get(dataset, 0) + self.slots.size(slot)
                leaving.append((block, "quota"))
            elif self._ledger.goes_first(dataset):
                self.goes_first(block)
        return leaving

    def _next_slots(self) -> Iterator[int]:
        count = self.slots.capacity
        for number in range(self._swept, min(count, self._swept + SWEEP_SLOTS)):
            if self.slots.is_taken(number):
                yield number
        self._swept = 0 if self._swept + SWEEP_SLOTS >= count else self._swept + SWEEP_SLOTS

    def change(self, inner: Policy) -> None:
        """Another policy takes over what is here, in the order in which this one would let go."""
        old = self._inner
        for resident in old:
            slot = old.slots.get(resident.block)
            read_at_s = 0 if slot is None else old.slots.read_at_s(slot)
            inner.inserted(*resident, float(read_at_s))
        self._inner = inner
        self.rules_changed()

    def spare(self, datasets: frozenset[str]) -> None:
        """As the ledger says, see ``rules_changed``."""
        self._inner.spare(datasets)

    def rules_changed(self) -> None:
        """The ledger has other rules."""
        self._inner.spare(self._ledger.pinned)

    def set_idle_ttl(self, ttl_s: float) -> None:
        """Where the policy cares: how long a dataset may be silent."""
        if isinstance(self._inner, Hold):
            self._inner.ttl_s = ttl_s

    def __iter__(self) -> Iterator[Resident]:
        return iter(self._inner)

    def __contains__(self, block: object) -> bool:
        return block in self._inner

    def __len__(self) -> int:
        return len(self._inner)
