"""A doubly linked list of slots in two arrays: 8 bytes a slot, every step O(1)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

END = -1


class Chain:
    """Slots in an order. ``first`` is where eviction begins; ``END`` stands for nobody."""

    def __init__(self) -> None:
        self._next = array("i")
        self._before = array("i")
        self.first = END
        self.last = END

    def append(self, slot: int) -> None:
        """At the end."""
        self.insert_after(self.last, slot)

    def insert_after(self, place: int, slot: int) -> None:
        """Behind ``place``, or in front of all behind ``END``."""
        while len(self._next) <= slot:
            self._next.append(END)
            self._before.append(END)
        after = self.first if place == END else self._next[place]
        self._next[slot], self._before[slot] = after, place
        self._join(place, slot)
        self._join(slot, after)

    def remove(self, slot: int) -> None:
        """Takes a slot out."""
        self._join(self._before[slot], self._next[slot])

    def _join(self, before: int, after: int) -> None:
        if before == END:
            self.first = after
        else:
            self._next[before] = after
        if after == END:
            self.last = before
        else:
            self._before[after] = before

    def after(self, slot: int) -> int:
        """The next one, or ``END``."""
        return self._next[slot]

    def before(self, slot: int) -> int:
        """The one before, or ``END``."""
        return self._before[slot]

    def __iter__(self) -> Iterator[int]:
        slot = self.first
        while slot != END:
            yield slot
            slot = self._next[slot]
