"""How old an answer may be: the consistency class of a mount, applied to when the under store was asked. Pure.

Every answer carries ``synced_at_s``, the moment *before* the under store was asked. A request asked at ``t`` under
``max_age_s`` needs an answer from ``t - max_age_s`` or later; under "always" (0) that is from after it was asked, so it
never shares a listing that had begun before.
"""

from __future__ import annotations

import math

from forebay.contracts import Mount

CLOCK_STEP_S = 1.0
"""An answer from further in the future means that the clock was set back: it is not believed."""

PAGING_S = 300.0
"""How long a listing that has begun may be continued from the sync it began with, whatever ``max_age_s`` says."""

NAMESPACE_VALID_S = 30.0
"""How long clients may keep what the mount table alone says."""

NEGATIVE_VALID_S = 30.0
"""How long clients may keep a "not found", on immutable mounts too: data may still be on its way."""


def max_age_of(mount: Mount, key: str) -> float | None:
    """The consistency class of ``key``: that of the longest rule whose prefix it is at or below, else the mount's."""
    inside = [rule for rule in mount.rules if f"{key}/".startswith(f"{rule.prefix}/")]
    return max(inside, key=lambda rule: len(rule.prefix)).max_age_s if inside else mount.max_age_s


def listing_age_of(mount: Mount, directory: str) -> float | None:
    """The consistency class of the listing of ``directory``: the strictest among its own and those of names in it that
    have a rule of their own, for all travel together."""
    own = max_age_of(mount, directory)
    inside = [rule.max_age_s for rule in mount.rules if rule.prefix.rpartition("/")[0] == directory]
    ages = [age for age in (own, *inside) if age is not None]
    return min(ages, default=None)


def needed_since(asked_at_s: float, max_age_s: float | None) -> float:
    """The oldest ``synced_at_s`` that will do; minus infinity for immutable mounts."""
    return -math.inf if max_age_s is None else asked_at_s - max_age_s


def needed_to_continue(asked_at_s: float, max_age_s: float | None, begun_with_s: float) -> float:
    """The oldest ``synced_at_s`` that continues a listing whose first page was from ``begun_with_s``.

    Never older than the first page. A listing that dawdles longer than ``PAGING_S`` and ``max_age_s`` is taken up
    from a new sync.
    """
    begun_with_s = min(begun_with_s, asked_at_s)  # another master's clock may be ahead of ours
    if max_age_s is None or asked_at_s - begun_with_s <= max(PAGING_S, max_age_s):
        return begun_with_s
    return asked_at_s - max_age_s


def is_good(synced_at_s: float, since_s: float, now_s: float) -> bool:
    """Whether an answer from ``synced_at_s`` satisfies ``since_s``."""
    return since_s <= synced_at_s <= now_s + CLOCK_STEP_S


def valid_s(synced_at_s: float, max_age_s: float | None, now_s: float) -> float | None:
    """How long from now a client may keep the answer; ``None`` is for ever."""
    if max_age_s is None:
        return None
    return min(max_age_s, max(0.0, synced_at_s + max_age_s - now_s))


def negative_valid_s(synced_at_s: float, max_age_s: float | None, now_s: float) -> float:
    """As ``valid_s``, for a name that is not there."""
    left_s = valid_s(synced_at_s, max_age_s, now_s)
    return NEGATIVE_VALID_S if left_s is None else min(NEGATIVE_VALID_S, left_s)
