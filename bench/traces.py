"""Traces of block reads, drawn from a seed: reshuffled epochs, a Zipf popularity, two datasets in turn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate

Names = Sequence[str]


def epochs(names: Names, count: int, rng: random.Random) -> list[str]:
    """Every name once an epoch, in a new order each time."""
    trace: list[str] = []
    for _ in range(count):
        trace += rng.sample(names, len(names))
    return trace


def zipf(names: Names, length: int, exponent: float, rng: random.Random) -> list[str]:
    """``length`` reads, each independent; the name of rank r has weight ``r ** -exponent``."""
    ranked = rng.sample(names, len(names))
    weights = list(accumulate((rank + 1) ** -exponent for rank in range(len(names))))
    return rng.choices(ranked, cum_weights=weights, k=length)


def in_turn(first: Names, second: Names, *, run: int, turns: int, rng: random.Random) -> list[str]:
    """``run`` epochs of one set, then ``run`` of the other, ``turns`` times in all."""
    trace: list[str] = []
    for turn in range(turns):
        trace += epochs(second if turn % 2 else first, run, rng)
    return trace
