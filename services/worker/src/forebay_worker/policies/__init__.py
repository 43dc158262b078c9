"""What to keep and what to let go: policies behind one interface. Pure: no I/O, no clock, no task.

``protocol`` is what the store sees; ``slots`` and ``chain`` are the compact memory that the policies share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from forebay_worker.policies.hold import Hold
from forebay_worker.policies.lfu import Lfu
from forebay_worker.policies.lru import Fifo, Lru
from forebay_worker.policies.protocol import Admission, Policy
from forebay_worker.policies.random2 import Random2
from forebay_worker.policies.sieve import Sieve

PolicyName = Literal["hold", "lru", "lfu", "fifo", "random-2", "sieve"]

POLICIES: dict[PolicyName, Callable[[int], Policy]] = {
    "hold": Hold,
    "lru": Lru,
    "lfu": Lfu,
    "fifo": Fifo,
    "random-2": Random2,
    "sieve": Sieve,
}
"""Makers of policies by the name of the ``policy`` setting; each takes the tier's capacity in bytes."""

__all__ = ["POLICIES", "Admission", "Fifo", "Hold", "Lfu", "Lru", "Policy", "PolicyName", "Random2", "Sieve"]
