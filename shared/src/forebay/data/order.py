"""In which order samples are read, and by whom: pure functions of names, seed, epoch and rank.

All ranks compute the same order of shards and take every ``world``-th; the workers of a loader split their rank's
share the same way. So each shard is read by exactly one worker of one rank in each epoch. Within a shard, records are
shuffled in windows of fixed length, so that reading can go on anywhere at the cost of one window.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from forebay.errors import InvalidRequest


@dataclass(frozen=True)
class Part:
    """Who reads: ``worker`` of ``workers`` in ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise InvalidRequest(f"rank {self.rank} is not one of a world of {self.world}: ranks count from 0")
        if self.workers < 1 or not 0 <= self.worker < self.workers:
            raise InvalidRequest(f"worker {self.worker} is not one of {self.workers}")


def shard_order(shards: Sequence[str], *, seed: int, epoch: int, is_shuffled: bool = True) -> list[str]:
    """All shards in the order of an epoch; the same in every process, whatever the order they were given in."""
    names = sorted(shards)
    if len(set(names)) != len(names):
        raise InvalidRequest("a shard is named twice")
    if is_shuffled:
        random.Random(f"shards:{seed}:{epoch}").shuffle(names)
    return names


def share(order: Sequence[str], part: Part) -> list[str]:
    """What one worker of one rank reads of it, in order."""
    return list(order[part.rank :: part.world][part.worker :: part.workers])


def window_order(count: int, *, seed: int, epoch: int, shard: str, first: int) -> list[int]:
    """The order of the ``count`` records of a window that begins with record ``first`` of a shard."""
    numbers = list(range(count))
    random.Random(f"records:{seed}:{epoch}:{first}:{shard}").shuffle(numbers)
    return numbers


def file_order(count: int, *, seed: int, epoch: int, part: Part, is_shuffled: bool = True) -> list[int]:
    """Indices of single files for one rank, without overlap and without loss."""
    numbers = list(range(count))
    if is_shuffled:
        random.Random(f"files:{seed}:{epoch}").shuffle(numbers)
    return numbers[part.rank :: part.world]
