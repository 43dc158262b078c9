"""What to keep and what to let go: policies behind one interface. Pure: no I/O, no clock, no task.

``protocol`` is what the store sees; ``slots`` and ``chain`` are the compact memory that the policies share.
"""

from __future__ import annotations

from collections.abc import Callable

from forebay_worker.policies.lru import Lru
from forebay_worker.policies.protocol import Admission, Policy

POLICIES: dict[str, Callable[[int], Policy]] = {"lru": Lru}
"""Makers of policies by the name of the ``policy`` setting; each takes the tier's capacity in bytes."""

__all__ = ["POLICIES", "Admission", "Lru", "Policy"]
