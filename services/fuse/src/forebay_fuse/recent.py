"""Paths that changed lately, by number: what an answer that was under way meanwhile must not be told as good. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

KEPT_MAX = 10_000


class Touched(NamedTuple):
    """A path that changed; ``below``: and anything below it."""

    path: str
    below: bool

    def covers(self, path: str) -> bool:
        """Whether ``path`` may have changed."""
        return path == self.path or (self.below and is_below(path, self.path))

    def lies_in(self, directory: str) -> bool:
        """Whether a name in ``directory`` may have changed."""
        if self.below and (directory == self.path or is_below(directory, self.path)):
            return True
        return (self.path.rpartition("/")[0] or "/") == directory


class Recent:
    """Invariant: it holds the changes with the numbers up to ``number``, without a gap, at most ``kept_max``."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept: deque[Touched] = deque(maxlen=kept_max)
        self.number = 0

    def tell(self, path: str, *, below: bool) -> None:
        """One more."""
        self._kept.append(Touched(path, below))
        self.number += 1

    def since(self, number: int) -> Iterator[Touched]:
        """What came after ``number``; where that is not known any more, everything."""
        missed = self.number - number
        if missed > len(self._kept):
            yield Touched("/", True)
        elif missed:
            yield from islice(self._kept, len(self._kept) - missed, None)

    def covers(self, path: str, number: int) -> bool:
        """Whether ``path`` may have changed since ``number``."""
        return number != self.number and any(each.covers(path) for each in self.since(number))

    def lies_in(self, directory: str, number: int) -> bool:
        """Whether a name in ``directory`` may have changed since ``number``."""
        return number != self.number and any(each.lies_in(directory) for each in self.since(number))


def is_below(path: str, directory: str) -> bool:
    """Whether ``path`` lies somewhere below ``directory``."""
    return directory == "/" or path.startswith(f"{directory}/")
