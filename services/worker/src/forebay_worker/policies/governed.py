"""A policy under the rules of mounts: pins, times to live, quotas, and blocks that are to go before all others.

What the policy orders is how blocks compete for room; this says which do not compete at all. It is a policy itself, so
the store knows nothing of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from forebay_worker.policies.hold import Hold
from forebay_worker.policies.ledger import Ledger
from forebay_worker.policies.protocol import Admission, Busy, NoOrder, Order, Policy
from forebay_worker.policies.slots import Resident, Slots

FIRST_MAX = 65_536
"""Blocks that are remembered as the first to go; more than these compete like others."""

SWEEP_SLOTS = 8192
"""Blocks that one step of a sweep looks at (some milliseconds)."""

DRAWS = 32
"""Blocks drawn to see whether any may go, before the policy is asked for the best: it would look at all of them."""


class Governed:
    """``inner`` decides about room; ``ledger`` is shared by the tier directories of a worker. ``order`` knows what will
    be read: what is next gets in, in the place of what is not awaited; what is awaited is not evicted."""

    def __init__(self, inner: Policy, ledger: Ledger, order: Order | None = None) -> None:
        self._inner = inner
        self._ledger = ledger
        self._order = NoOrder() if order is None else order
        self._rng = random.Random(0)
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
        before all others make room for everybody; what is read next gets in as well, into room that is made for it
        alone: what else the policy would let go of may be what is read after it."""
        asked = self._inner.admit(block, size, dataset, now_s)
        if self._ledger.is_over(dataset, size):
            return Admission(False, "quota")
        if block in self._order:
            return Admission(True)
        if asked.is_admitted:
            return asked
        if self._ledger.of(dataset).is_pinned or self._first:
            return Admission(True, evict_bytes=size)
        return asked

    def _is_any_free(self, is_out: Busy) -> bool:
        """Whether one of a few blocks drawn may go."""
        slots = self.slots
        drawn = (slots.any(self._rng) for _ in range(DRAWS))
        return any(not is_out(slots.block(slot)) for slot in drawn if slot is not None)

    def victims(self, wanted_bytes: int, now_s: float, *, busy: Busy) -> list[str]:
        """First what is to go first, what is idle, and what those who said their order have behind them; then by the
        policy. Never what is pinned or awaited."""
        chosen: dict[str, None] = {}

        def out(block: str) -> bool:
            return block in chosen or self._is_kept(block) or busy(block)

        for blocks in (self._first, self._idle(now_s), self._order.behind()):
            wanted_bytes -= self._choose(chosen, blocks, wanted_bytes, out)
        if wanted_bytes > 0 and self._is_any_free(out):
            chosen |= dict.fromkeys(self._inner.victims(wanted_bytes, now_s, busy=out))
        return list(chosen)

    def _choose(self, chosen: dict[str, None], blocks: Iterable[str], wanted_bytes: int, out: Busy) -> int:
        """Adds blocks that are here; how many bytes they are."""
        taken = 0
        for block in blocks:
            if taken >= wanted_bytes:
                break
            if block in self and not out(block):
                chosen[block] = None
                taken += self._size(block)
        return taken

    def _idle(self, now_s: float) -> Iterator[str]:
        return self._inner.idle(now_s) if isinstance(self._inner, Hold) else iter(())

    def _is_kept(self, block: str) -> bool:
        return self._order.awaits(block) or self._is_pinned(block)

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
