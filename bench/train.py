"""Emulated accelerators over a mount: what training loses to waiting for data when the dataset is cached.

Every epoch of the paced runs begins without pages of the mount, so all its bytes come from the workers, a quarter of
them near (`bench.train_cluster`); that is checked. The pace is 861 MB/s or the highest of `PACES` at which local disk
itself loses under 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from statistics import median
from typing import Any

from bench.figures import Figure, Options, environment, say
from bench.memory import drop_caches, kept_memory
from bench.train_cluster import Mounted, mounted
from bench.train_job import BATCH, Job, Ran, job, synthetic
from bench.train_profiles import NODE_MBPS
from forebay.data import Files, FolderFiles

PAIRS, QUICK_PAIRS, BESIDE_PAIRS = 7, 1, 3
PACES = tuple(NODE_MBPS * 0.85**n for n in range(12))
LOSS_MAX, UTILISATION_MIN = 0.01, 0.99
NEAR, NEAR_OFF_MAX = 0.25, 0.05
KEPT_BYTES = 5 << 29
"""Room for the page cache of the dataset, kept from the host of a virtual machine."""

STREAMING = {"gateway": ("--direct-io",)}
"""Of a dataset that the page cache does not hold: a page that is never read again only costs."""


def pace_mbps(made: Job) -> float:
    """The highest of ``PACES`` at which local disk loses under 1 %."""
    for pace in PACES:
        step_s = made.step_s(pace)
        ideal, disk = synthetic(made.steps(), step_s), made.run(FolderFiles(made.folder), step_s)
        lost = 1 - disk.images_per_s / ideal.images_per_s
        say(f"train: local disk at {pace:.0f} MB/s loses {lost:.2%}")
        if lost < LOSS_MAX:
            return pace
    return PACES[-1]


def check_near(share: float, *, quick: bool) -> float:
    """That a quarter of the bytes came from the near tier."""
    if abs(share - NEAR) > NEAR_OFF_MAX and not quick:
        raise RuntimeError(f"{share:.1%} of the bytes came from the near tier, not {NEAR:.0%}")
    return share


def paced(mount: Mounted, files: Files, step_s: float, pairs: int) -> list[tuple[Ran, Ran]]:
    """Synthetic beside ``files``, in turn; each epoch begins without pages of the mount."""
    made, found = mount.job, list[tuple[Ran, Ran]]()
    for number in range(pairs):
        drop_caches()
        found.append((synthetic(made.steps(), step_s), made.run(files, step_s, epoch=number)))
        ideal, ours = found[-1]
        say(f"train: {type(files).__name__}: {ours.images_per_s:.0f} images/s, synthetic {ideal.images_per_s:.0f}")
    return found


def lost(pairs: Sequence[tuple[Ran, Ran]]) -> float:
    """Of images/s, the median."""
    return median(1 - ours.images_per_s / ideal.images_per_s for ideal, ours in pairs)


@cache
def tuned(options: Options) -> Mapping[str, Any]:
    """One run for three figures: at a pace, synthetic beside the mount. The page cache has nothing to give here, so the
    mount does without it; with it, and by the SDK, is in the detail."""
    count, beside = (QUICK_PAIRS, 1) if options.quick else (PAIRS, BESIDE_PAIRS)
    with job(options) as made, kept_memory(KEPT_BYTES):
        pace = pace_mbps(made)
        step_s = made.step_s(pace)
        with mounted(made, extra=STREAMING) as mount:
            mount.spread()
            mount.warm()
            sent = mount.sent()
            pairs = paced(mount, mount.files(), step_s, count)
            share = 1 - (mount.sent() - sent) / (count * made.bytes)
            sdk = mount.sdk()
            by_sdk = lost(paced(mount, sdk, step_s, beside))
            sdk.close()
        with mounted(made) as mount:
            mount.spread()
            mount.warm()
            by_pages = lost(paced(mount, mount.files(), step_s, beside))
    return {
        "pace": pace,
        "lost": lost(pairs),
        "utilisation": median(ours.utilisation / ideal.utilisation for ideal, ours in pairs),
        "runs": [[round(i.images_per_s, 1), round(o.images_per_s, 1)] for i, o in pairs],
        "near_share": round(check_near(share, quick=options.quick), 3),
        "far_share": round(1 - share, 3),
        "dataset_MB": round(made.bytes / 1e6),
        "mount": STREAMING,
        "lost_with_page_cache": round(by_pages, 4),
        "lost_by_sdk": round(by_sdk, 4),
    }


def _figure(options: Options, name: str, key: str, unit: str, goal: float | None, *, lower: bool = False) -> Figure:
    run = tuned(options)
    detail = {**run, "batch": BATCH, **environment()}
    return Figure("train", name, run[key], unit, goal, lower_is_better=lower, detail=detail)


def tuned_loss(options: Options) -> Figure:
    """Images/s lost to synthetic data at the pace."""
    return _figure(options, "tuned_loss", "lost", "ratio", LOSS_MAX, lower=True)


def tuned_utilisation(options: Options) -> Figure:
    """Share of the time that accelerators compute, of what they do with synthetic data."""
    return _figure(options, "tuned_utilisation", "utilisation", "ratio", UTILISATION_MIN)


def pace(options: Options) -> Figure:
    """The pace of both."""
    return _figure(options, "pace_MBps", "pace", "MB/s", None)


FIGURES = {
    "tuned_loss": tuned_loss,
    "tuned_utilisation": tuned_utilisation,
    "pace_MBps": pace,
}
