"""The interface between the store and what decides about keeping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from forebay_worker.policies.slots import Resident, Slots

Busy = Callable[[str], bool]
"""Whether a block may not be evicted now (leased, being filled or sealed)."""


@dataclass(frozen=True)
class Admission:
    """Whether a block may be cached now. ``reason`` is a metric label when it may not. ``evict_bytes``: how much
    should be let go of in the background because of this request, whether it was admitted or not."""

    is_admitted: bool
    reason: str = ""
    evict_bytes: int = 0


ADMITTED = Admission(True)


class Order(Protocol):
    """What is known of the order in which blocks will be read; ``Hints`` is one. It contains those that are read next:
    they get in."""

    def awaits(self, block_id: str) -> bool:
        """Whether the block will be read, sooner or later."""

    def behind(self) -> Iterator[str]:
        """Blocks that were read and will not be before all that are awaited; the first to go first."""

    def __contains__(self, block_id: object) -> bool:
        """Whether the block is read next."""


class NoOrder:
    """Nobody has said anything."""

    def awaits(self, _: str) -> bool:
        """No."""
        return False

    def behind(self) -> Iterator[str]:
        """None."""
        return iter(())

    def __contains__(self, _: object) -> bool:
        return False


class Policy(Protocol):
    """Decides for one tier directory. Blocks that it does not know are ignored by ``touched`` and ``removed``.

    ``size`` is what the block takes of the capacity, in bytes. Callers pass the string that they keep themselves:
    the policy holds on to it and copies nothing.
    """

    @property
    def name(self) -> str:
        """As in the ``policy`` setting."""

    @property
    def slots(self) -> Slots:
        """What is known of each block, whatever the policy."""

    @property
    def keeps_full(self) -> bool:
        """Whether it fills its tier to the last byte and says itself (``Admission.evict_bytes``) when something must
        go; the others are kept between the watermarks."""

    def inserted(self, block: str, size: int, dataset: str, now_s: float) -> None:
        """The block takes room here from now on: its fill starts, or it was found at start (``dataset`` "")."""

    def touched(self, block: str, now_s: float, dataset: str = "") -> None:
        """The block was read here, or a touch report says that it was read elsewhere. A ``dataset`` is adopted by a
        block that had none."""

    def removed(self, block: str) -> None:
        """The block left, for whatever reason."""

    def admit(self, block: str, size: int, dataset: str, now_s: float) -> Admission:
        """A read asks for a block that is not here; whether it may be cached at all. Whether there is room for it is
        the caller's question. Asked once for every read that misses: policies learn from it."""

    def spare(self, datasets: frozenset[str]) -> None:
        """These datasets are pinned from now on and no others: their blocks are busy for ever, and count on no one to
        make room for them by being idle."""

    def victims(self, wanted_bytes: int, now_s: float, *, busy: Busy) -> list[str]:
        """Blocks to evict, best first, that together free ``wanted_bytes``; fewer if there are no more. Never one
        that is ``busy``. They stay known until ``removed``."""

    def __iter__(self) -> Iterator[Resident]:
        """Every block, the first to go about first: another policy can take over from here."""

    def __contains__(self, block: object) -> bool:
        """Whether the block is known."""

    def __len__(self) -> int:
        """Blocks that are known."""
