"""The serving weight: how gladly this worker takes another read, 0 to 1. Pure.

It chooses among those that may hold a block and never decides who owns it. Every answer carries it; the registry hears
of it at most every 30 s. It is a product of factors, so that whatever is short shows, and only health makes it zero: a
worker that is merely busy goes on being asked, last.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

BUSY_READS = 16
"""Reads in flight at which the weight has fallen to one half."""

SLOW_START_S = 30.0
"""A joiner's weight grows for so long: its tiers are empty, its connections and caches cold."""

SLOW_START_MIN = 0.1
FACTOR_MIN = 0.1
"""What shortage of one thing can take the weight down to."""

QUEUED_RUNS = 4
"""Waiting fills per stream at which the queue's factor has fallen to one half."""

WEIGHT_MIN = 0.01


@dataclass(frozen=True)
class Vitals:
    """What this worker measured of itself.

    ``cpu_used``: share of the CPU time that its control group grants. ``fills_per_stream``: runs under way or waiting,
    by stream. ``leaving``: share of the tiers' bytes that were let go of and are not free yet, because somebody still
    has them open: room that the tiers lack. ``health``: the least of the health checks' scores. ``age_s``: since it
    began to serve.
    """

    cpu_used: float = 0.0
    fills_per_stream: float = 0.0
    leaving: float = 0.0
    health: float = 1.0
    age_s: float = SLOW_START_S


def slow_start(age_s: float) -> float:
    """The factor of a worker that has served for ``age_s``."""
    return min(1.0, SLOW_START_MIN + (1.0 - SLOW_START_MIN) * max(0.0, age_s) / SLOW_START_S)


def base_weight(vitals: Vitals) -> float:
    """The weight of a worker that answers nothing at the moment; zero only if its health is."""
    cpu = max(FACTOR_MIN, 1.0 - vitals.cpu_used)
    queue = max(FACTOR_MIN, 1.0 / (1.0 + vitals.fills_per_stream / QUEUED_RUNS))
    tiers = max(FACTOR_MIN, 1.0 - vitals.leaving)
    weight = min(1.0, max(0.0, vitals.health)) * cpu * queue * tiers * slow_start(vitals.age_s)
    return max(weight, sys.float_info.min) if vitals.health > 0 else 0.0


def serving_weight(base: float, in_flight: int) -> float:
    """The weight with ``in_flight`` reads being answered, in hundredths; zero only if ``base`` is."""
    return max(WEIGHT_MIN, round(base / (1 + in_flight / BUSY_READS), 2)) if base > 0 else 0.0
