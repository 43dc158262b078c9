"""When a second request is worth it: after the time within which 95 of 100 answers of that size came. Pure."""

from __future__ import annotations

from bisect import bisect_left

SIZES = (256 << 10, 1 << 20, 4 << 20)
"""Upper bounds of the classes of lengths that are told apart; one more class lies above."""

KEPT = 128
"""Answers remembered by class."""

ANSWERS_MIN = 20
"""Below so many answers of a class nothing is known."""

FRESH = 16
"""The quantile is computed anew after so many answers: sorting 128 numbers costs 10 µs."""

QUANTILE = 0.95

DELAY_S_MIN = 0.02
"""Never sooner: an answer that is late by a few milliseconds is not worth another request."""


class _Class:
    __slots__ = ("count", "delay_s", "times")

    def __init__(self) -> None:
        self.times: list[float] = []
        self.count = 0
        self.delay_s: float | None = None

    def add(self, latency_s: float) -> None:
        if len(self.times) < KEPT:
            self.times.append(latency_s)
        else:
            self.times[self.count % KEPT] = latency_s
        self.count += 1
        if self.count >= ANSWERS_MIN and (self.delay_s is None or self.count % FRESH == 0):
            ordered = sorted(self.times)
            self.delay_s = max(DELAY_S_MIN, ordered[int(QUANTILE * (len(ordered) - 1))])


class Delays:
    """What this client saw of answers, by length."""

    def __init__(self) -> None:
        self._classes = [_Class() for _ in range(len(SIZES) + 1)]

    def answered(self, length: int, latency_s: float) -> None:
        """A request for ``length`` bytes was answered."""
        self._classes[bisect_left(SIZES, length)].add(latency_s)

    def delay_s(self, length: int) -> float | None:
        """How long to wait before a second request for ``length`` bytes; ``None`` while too little is known."""
        return self._classes[bisect_left(SIZES, length)].delay_s
