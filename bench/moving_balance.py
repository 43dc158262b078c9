"""Figures of placement alone: whose block ids are whose. No process is started; it is the code that clients run."""

from __future__ import annotations

import random
from collections import Counter

from bench.figures import Figure, Options, environment
from forebay.balancing import Placement
from forebay.contracts import Member, identity

WEIGHTS = {"worker-a": 1.0, "worker-b": 1.0, "worker-c": 2.0, "worker-d": 4.0}
NEWCOMER, NEWCOMER_WEIGHT = "worker-e", 2.0
BLOCKS = 1_000_000
QUICK_BLOCKS = 20_000
SWINGS = 9
GOAL_SHARE = 0.01


def blocks(options: Options) -> list[str]:
    """Ids of the blocks of files as a dataset has them."""
    count = QUICK_BLOCKS if options.quick else BLOCKS
    version = identity.version_id("0" * 32, "train-00000-of-01024", "etag")
    return [identity.block_id(version, 256 << 20, index) for index in range(count)]


def members(weights: dict[str, float], rng: random.Random | None = None) -> list[Member]:
    """Workers with these capacity weights; with ``rng``, serving weights anywhere between 0.1 and 1."""
    return [
        Member(
            member_id=name,
            role="worker",
            tcp=f"{name}:7071",
            capacity_weight=weight,
            serving_weight=rng.uniform(0.1, 1.0) if rng else 1.0,
        )
        for name, weight in weights.items()
    ]


def homes(ids: list[str], over: list[Member]) -> list[str]:
    """The home of each block."""
    placement = Placement.over(over)
    return [home.member_id for block in ids if (home := placement.home(block)) is not None]


def share_error(options: Options) -> Figure:
    """The largest relative distance of a worker's share from its weight's."""
    ids = blocks(options)
    counts, total = Counter(homes(ids, members(WEIGHTS))), sum(WEIGHTS.values())
    errors = {name: counts[name] / len(ids) / (weight / total) - 1.0 for name, weight in WEIGHTS.items()}
    detail = {"blocks": len(ids), "weights": WEIGHTS, "errors": {n: round(e, 5) for n, e in errors.items()}}
    worst = max(map(abs, errors.values()))
    return Figure("moving", "share_error", worst, goal=GOAL_SHARE, lower_is_better=True, detail=detail)


def moved_others(options: Options) -> Figure:
    """Blocks that changed hands when a worker joined, other than those that the newcomer owns now."""
    ids = blocks(options)
    before = homes(ids, members(WEIGHTS))
    after = homes(ids, members(WEIGHTS | {NEWCOMER: NEWCOMER_WEIGHT}))
    to_newcomer = sum(new == NEWCOMER for new in after)
    others = sum(new not in (old, NEWCOMER) for old, new in zip(before, after, strict=True))
    expected = NEWCOMER_WEIGHT / (sum(WEIGHTS.values()) + NEWCOMER_WEIGHT)
    detail = {
        "blocks": len(ids),
        "moved_to_the_newcomer": to_newcomer,
        "share_of_the_newcomer": round(to_newcomer / len(ids), 5),
        "share_by_weight": round(expected, 5),
    }
    return Figure("moving", "moved_others", others, "blocks", 0, lower_is_better=True, detail=detail)


def swing_moved(options: Options) -> Figure:
    """Blocks that changed hands while serving weights swung between 0.1 and 1."""
    ids, rng = blocks(options), random.Random(1)
    before = homes(ids, members(WEIGHTS))
    moved = 0
    for _ in range(1 if options.quick else SWINGS):
        swung = homes(ids, members(WEIGHTS, rng))
        moved += sum(old != new for old, new in zip(before, swung, strict=True))
    detail = {"blocks": len(ids), "swings": SWINGS, "versions": environment("forebay")}
    return Figure("moving", "swing_moved", moved, "blocks", 0, lower_is_better=True, detail=detail)


FIGURES = {"share_error": share_error, "moved_others": moved_others, "swing_moved": swing_moved}
