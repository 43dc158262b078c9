"""Opening a worker's tier directories: planned from the settings, then all of them or none."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence

from forebay.errors import ConfigError, InvalidRequest
from forebay.runtime.cgroup import memory_limit_bytes
from forebay.ufs import AllowedRoots
from forebay_worker.directory import Manner, TierDirectory, TierSpec
from forebay_worker.settings import (
    TIER_SETTING,
    WorkerSettings,
    check_apart,
    check_outside_sources,
    default_tier,
    parse_tier,
    resolve_tiers,
    smallest,
    space_at,
    tuning_of,
)
from forebay_worker.steps import from_environment
from forebay_worker.tiers import open_tier, undo
from forebay_worker.tuning import check_whole


def plan_tiers(settings: WorkerSettings) -> list[TierSpec]:
    """The tier directories with their sizes, checked against memory, disks and sources.

    Raises:
        ConfigError: they cannot work; names ``tier_dirs``, or the setting that they are too small for.
    """
    texts = [parse_tier(text) for text in settings.tier_dirs] or [default_tier(settings)]
    spaces = [space_at(text.path) for text in texts]
    specs = resolve_tiers(texts, spaces, memory=memory_limit_bytes(), reserve=settings.heap_reserve)
    check_apart(specs)
    check_outside_sources(specs, AllowedRoots.parse(settings.ufs_roots))
    _check_tuning(settings, specs)
    return specs


def _check_tuning(settings: WorkerSettings, specs: Sequence[TierSpec]) -> None:
    """What a running worker would not take, it does not start with."""
    try:
        check_whole(tuning_of(settings), smallest(specs))
    except InvalidRequest as e:
        raise ConfigError(str(e.details["field"]), str(e.details["reason"])) from e


def files_within_limit(files_max: int) -> int:
    """``files_max``, or what the descriptor limit allows (a mapped file takes two, sockets need some)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        soft = min(hard, max(soft, 65_536)) if hard != resource.RLIM_INFINITY else max(soft, 65_536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(16, min(files_max, (soft - 256) // 4))


def open_tiers(specs: Sequence[TierSpec]) -> list[TierDirectory]:
    """All directories, or none.

    Raises:
        ConfigError: one of them cannot be used.
    """
    opened: list[TierDirectory] = []
    manner = Manner(steps=from_environment(os.environ))
    try:
        for spec in specs:
            opened += [open_tier(spec, setting=TIER_SETTING, manner=manner)]
    except BaseException:
        for tier in opened:
            undo(tier)
        raise
    return opened


def give_back(tiers: Sequence[TierDirectory]) -> None:
    """Closes all directories; those that this worker made and left empty go."""
    for tier in tiers:
        undo(tier)
