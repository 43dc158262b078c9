"""Holds a resident set: once the tier is full, the reads of an epoch do not evict each other.

A shuffled epoch reads every block once before any block twice, so whatever share of the dataset is here, nothing that
a read could replace is worth less than what it brings. What is measured, not assumed: every miss that finds the tier
full is set against a resident block (``bets``), and only kinds of misses that mostly return before what they would
replace get in: popular blocks where some are read far more often than others, small datasets that come round faster,
nothing at all in epochs. No hint is needed.

A dataset is *awake* while it is read at least every ``ttl_s``. Silent for longer, it is *abandoned* and its blocks
leave for whatever is read instead, unless it came back from such a silence before: then, for twice that long, it is
only *silent*, and experience decides whether it is worth holding on to (two datasets read in turn).

Reads of one block that come with few others in between are one read (``_Lately``): a block is read in ranges.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from forebay_worker.policies.bets import AGE_MAX, Bets
from forebay_worker.policies.protocol import ADMITTED, Admission, Busy
from forebay_worker.policies.sketch import Sketch
from forebay_worker.policies.slots import Resident, Slots

TTL_S = 600.0
"""Silence after which a dataset is taken for idle."""

PAUSE_FACTOR = 2.0
"""A dataset that once came back after a pause is expected for this many times as long."""

PAUSE_MEMORY = 0.9
"""What is left of the longest pause known after a shorter one."""

WINNING = 0.55
"""A newcomer gets in if its kind wins more than this share of its bets."""

SILENT_WINNING = 0.4
"""The same against datasets that are silent: when in doubt, what is read now has the room."""

DRAWS = 6
"""Residents drawn to find the least wanted one."""

BULK_SHARE = 0.02
"""Share of the tier that is let go of at a time when a whole dataset goes."""

OWED_SHARE = 0.02
"""Share of the tier that may stand empty for newcomers that won."""

PATIENCE = 64
"""Newcomers without a winner among them until that room is everybody's."""

LATELY_SHARE, LATELY_MAX = 0.25, 256
"""Blocks read lately whose next range is the same read: share of the residents, and bound."""

TICK_MASK = 0xFFFF_FFFF
"""Ticks are kept in four bytes."""

MORE_MAX = 3
"""Differences in reads lately are told apart up to this."""

SILENT = "silent"
PRIORS = {SILENT: 0.5} | {
    f"{where}{more}": chance
    for where in ("same", "other")
    for more, chance in zip(range(MORE_MAX + 1), (0.3, 0.3, 0.5, 0.6), strict=True)
}
"""Share of newcomers that return first, before there is experience; the number is how many more reads they had."""


@dataclass(slots=True)
class _Dataset:
    """``slots`` are its blocks here, in no order. ``pause_s``: the longest silence it came back from, forgotten
    little by little with shorter ones. In seconds of the caller's clock."""

    read_at_s: float
    slots: array[int] = field(default_factory=lambda: array("I"))
    pause_s: float = 0.0


class Hold:
    """See the module. ``rng`` draws residents; ``ttl_s`` is how long a dataset may be silent."""

    name = "hold"
    keeps_full = True

    def __init__(self, capacity_bytes: int, *, ttl_s: float = TTL_S, rng: random.Random | None = None) -> None:
        self._capacity = capacity_bytes
        self.ttl_s = ttl_s
        self._rng = rng or random.Random(0)
        self.slots = Slots()
        self._place = array("I")
        self._read_at = array("I")
        self._tick = 0
        self._datasets: dict[int, _Dataset] = {}
        self._sketch = Sketch()
        self._bets = Bets(PRIORS)
        self._lately: dict[str, None] = {}
        self._lately_max = 1
        self._owed_bytes = 0
        self._unused = 0
        self._pinned: frozenset[str] = frozenset()

    # -- what happens

    def inserted(self, block: str, size: int, dataset: str, now_s: float) -> None:
        """Takes its place in its dataset."""
        slot = self.slots.add(block, size, dataset, now_s)
        if slot == len(self._place):
            self._place.append(0)
            self._read_at.append(0)
            self._sketch.make_room(slot + 1)
        self._lately_max = max(1, min(LATELY_MAX, int(len(self.slots) * LATELY_SHARE)))
        self._read_at[slot] = self._tick & TICK_MASK
        self._join(slot, self.slots.dataset_of(slot), now_s)

    def touched(self, block: str, now_s: float, dataset: str = "") -> None:
        """A read of what is here."""
        slot = self.slots.get(block)
        if slot is None:
            return
        self.slots.mark(slot, now_s)
        number = self.slots.dataset_of(slot)
        if not number and dataset:
            self._part(slot, 0)
            self.slots.adopt(slot, dataset)
            self._heard(0, now_s)  # blocks found at start are not idle while others of them find their dataset
            number = self.slots.dataset_of(slot)
            self._join(slot, number, now_s)
        self._heard(number, now_s)
        if self._counts(block):
            self._read_at[slot] = self._tick & TICK_MASK

    def removed(self, block: str) -> None:
        """Forgets the block, not how often it was read."""
        slot = self.slots.get(block)
        if slot is not None:
            self._part(slot, self.slots.dataset_of(slot))
            self.slots.drop(block)

    def _join(self, slot: int, number: int, now_s: float) -> None:
        dataset = self._datasets.get(number)
        if dataset is None:
            dataset = self._datasets[number] = _Dataset(now_s)
        self._place[slot] = len(dataset.slots)
        dataset.slots.append(slot)

    def _part(self, slot: int, number: int) -> None:
        slots = self._datasets[number].slots
        last = slots.pop()
        if last != slot:
            slots[self._place[slot]] = last
            self._place[last] = self._place[slot]

    def _heard(self, number: int, now_s: float) -> _Dataset:
        """A dataset is read: how long was it silent?"""
        dataset = self._datasets.get(number)
        if dataset is None:
            dataset = self._datasets[number] = _Dataset(now_s)
        silence_s = now_s - dataset.read_at_s
        if silence_s > self.ttl_s:
            dataset.pause_s = max(silence_s, dataset.pause_s * PAUSE_MEMORY)
        dataset.read_at_s = now_s
        return dataset

    def _counts(self, block: str) -> bool:
        """Whether this is a new read and not the next range of one that was counted."""
        if block in self._lately:
            return False
        self._lately[block] = None
        while len(self._lately) > self._lately_max:
            del self._lately[next(iter(self._lately))]
        self._tick += 1
        self._sketch.add(block)
        self._bets.read(block)
        return True

    # -- who gets in

    def admit(self, block: str, size: int, dataset: str, now_s: float) -> Admission:
        """While there is room, everybody; then those that are likely to be read before what they replace."""
        number = self.slots.dataset_number(dataset)
        self._heard(number, now_s)
        is_new = self._counts(block)
        free = self._capacity - self.slots.used_bytes
        if free - self._owed_bytes >= size:
            if is_new:
                self._learn_of_silent(block, number, now_s)
            return ADMITTED
        if self._is_given_up(number, now_s):
            bulk = max(size, int(self._capacity * BULK_SHARE))
            return Admission(True, evict_bytes=bulk)
        if not is_new:
            return Admission(False, "held")
        return self._duel(block, size, number, free)

    def _learn_of_silent(self, block: str, number: int, now_s: float) -> None:
        silent = self._silent(now_s, but=number)
        if silent:
            self._bet(block, self._draw(silent[0]), SILENT)

    def _silent(self, now_s: float, *, but: int | None = None) -> list[_Dataset]:
        """Datasets that are not awake and have blocks here that may go, the one silent longest first."""
        silent = [
            dataset
            for number, dataset in self._datasets.items()
            if now_s - dataset.read_at_s > self.ttl_s
            and number != but
            and dataset.slots
            and self.slots.dataset_name(dataset.slots[0]) not in self._pinned
        ]
        silent.sort(key=lambda dataset: dataset.read_at_s)
        return silent

    def _is_given_up(self, number: int, now_s: float) -> bool:
        """Whether another dataset goes now: abandoned, or silent with experience against it."""
        silent = self._silent(now_s, but=number)
        return bool(silent) and (self._is_abandoned(silent[0], now_s) or self._bets.chance(SILENT) > SILENT_WINNING)

    def _is_abandoned(self, dataset: _Dataset, now_s: float) -> bool:
        return now_s - dataset.read_at_s > max(self.ttl_s, PAUSE_FACTOR * dataset.pause_s)

    def _duel(self, block: str, size: int, number: int, free: int) -> Admission:
        """One newcomer against the least wanted of a few residents."""
        slot = self._least_wanted()
        if slot is None:
            return Admission(False, "held")
        rival = self.slots.block(slot)
        more = self._sketch.estimate(block) - self._sketch.estimate(rival)
        where = "same" if self.slots.dataset_of(slot) == number else "other"
        context = f"{where}{min(max(more, 0), MORE_MAX)}"
        chance = self._bets.chance(context)
        self._bet(block, slot, context)
        if chance <= WINNING:
            self._nobody_won(is_free=free >= size)
            return Admission(False, "held")
        self._unused = 0
        if free >= size:
            self._owed_bytes = max(0, self._owed_bytes - size)
        if self._owed_bytes + size > max(size, self._capacity * OWED_SHARE):
            return Admission(True)
        self._owed_bytes += size
        return Admission(True, evict_bytes=size)

    def _nobody_won(self, *, is_free: bool) -> None:
        """Room that stands empty for winners is everybody's again when none come."""
        self._unused += is_free
        if self._unused > PATIENCE:
            self._owed_bytes = self._unused = 0

    def _bet(self, block: str, slot: int | None, context: str) -> None:
        if slot is not None:
            age_max = AGE_MAX * max(64, len(self.slots))
            self._bets.open(block, self.slots.block(slot), context, tick=self._tick, age_max=age_max)

    # -- who goes

    def spare(self, datasets: frozenset[str]) -> None:
        """A pinned dataset may be silent for ever and makes no room."""
        self._pinned = datasets

    def _draw(self, dataset: _Dataset) -> int | None:
        return self._rng.choice(dataset.slots) if dataset.slots else None

    def _least_wanted(self) -> int | None:
        drawn = [slot for slot in (self.slots.any(self._rng) for _ in range(DRAWS)) if slot is not None]
        return min(drawn, key=self._worth, default=None)

    def _worth(self, slot: int) -> tuple[int, int]:
        age = (self._tick - self._read_at[slot]) & TICK_MASK
        return self._sketch.estimate(self.slots.block(slot)), -age

    def victims(self, wanted_bytes: int, now_s: float, *, busy: Busy) -> list[str]:
        """Of abandoned datasets the one silent longest, then silent ones, then what is read least."""
        chosen: dict[str, None] = {}
        for slot in self._in_order(now_s):
            if wanted_bytes <= 0:
                break
            block = self.slots.block(slot)
            if block not in chosen and not busy(block):
                chosen[block] = None
                wanted_bytes -= self.slots.size(slot)
        return list(chosen)

    def idle(self, now_s: float) -> Iterator[str]:
        """Blocks of datasets that are not awake, the one silent longest first."""
        for dataset in self._silent(now_s):
            yield from map(self.slots.block, list(dataset.slots))

    def _in_order(self, now_s: float) -> Iterator[int]:
        for dataset in self._silent(now_s):
            yield from dataset.slots
        for _ in range(2 * len(self.slots)):
            slot = self._least_wanted()
            if slot is not None:
                yield slot
        yield from self.slots

    def __iter__(self) -> Iterator[Resident]:
        return map(self.slots.resident, self.slots)

    def __contains__(self, block: object) -> bool:
        return block in self.slots

    def __len__(self) -> int:
        return len(self.slots)
