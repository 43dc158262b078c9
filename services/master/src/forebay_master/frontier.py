"""How far a listing that is still coming in is certain: behind which name nothing new can come any more. Pure.

Under stores list in one of two orders: by the bytes of the name where a directory counts as ``name/`` (S3's), or by the
name alone (SeaweedFS). A name is *certain* (there, or known not to be) only if it is so by both. In S3's order the
directory ``a`` comes after ``a-b`` and ``a.b``, so every beginning of the newest name that is followed by a character
below "/" is in doubt; ``blocking`` names those that hold back a whole page, for they are worth a question each:
"train" in a listing of "train-00000" to "train-09999".

Invariant: ``before`` never falls, and no name below it that was not there comes; else ``is_disordered``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

SETTLED_MAX = 10_000
"""Names that were asked for singly, in one listing."""


class Frontier:
    """Of one listing. Names below ``before`` are certain."""

    def __init__(self) -> None:
        self.before = ""
        self.count = 0
        self.is_disordered = False
        self._settled: set[str] = set()
        self._top = ""
        self._last = ""
        self._marks: list[tuple[str, int]] = []

    def advance(self, names: Sequence[str], top: str) -> None:
        """A page came in, with these names, of which ``top`` is the last in S3's order (a directory as ``name/``)."""
        self.count += len(names)
        if names:
            if self.before and min(names) < self.before and any(self._is_late(name) for name in names):
                self.is_disordered = True
            self._last = max(self._last, *names)
        self._top = max(self._top, top)
        self._move()

    def settle(self, name: str) -> None:
        """Whether there is a directory ``name`` was found out, and is in the listing: it is in doubt no longer."""
        if len(self._settled) < SETTLED_MAX:
            self._settled.add(name)
        self._move()

    def blocking(self, names: Sequence[str]) -> list[str]:
        """What is in doubt and holds back every one of ``names``, a page that just came in."""
        first = min(names, default="")
        return [name for name in self._doubts() if name < first]

    def certain(self, after: str) -> int:
        """About how many names behind ``after`` are certain; 0 is exact."""
        if self.is_disordered or after >= self.before:
            return 0
        at = bisect_right(self._marks, after, key=lambda mark: mark[0])
        return self.count - (self._marks[at - 1][1] if at else 0)

    def _move(self) -> None:
        top_name = self._top.removesuffix("/")
        bound = self._top if top_name != self._top else f"{self._top}\0"
        before = min([bound, f"{self._last}\0", *self._doubts()]) if self._top else ""
        if before > self.before and not self.is_disordered:
            self.before = before
            self._marks.append((before, self.count))

    def _doubts(self) -> list[str]:
        top = self._top
        ends = (at for at in range(1, len(top) + 1) if at == len(top) or top[at] < "/")
        return [top[:at] for at in ends if top[at - 1] != "/" and top[:at] not in self._settled]

    def _is_late(self, name: str) -> bool:
        return name < self.before and name not in self._settled
