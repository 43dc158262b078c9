"""Figures of the store that are read when somebody collects them, by tier directory and mount."""

from __future__ import annotations

from collections.abc import Callable

from forebay.errors import Detail
from forebay.telemetry import Metrics
from forebay_worker.lanes import Lanes
from forebay_worker.observe import WorkerMetrics
from forebay_worker.room import Held
from forebay_worker.scrub import Scrubber
from forebay_worker.store import Store

Series = dict[tuple[str, ...], float]
READ_SOURCES = ("mem", "ssd", "peer", "ufs")


def seen(metrics: WorkerMetrics, store: Store) -> dict[str, dict[str, Detail]]:
    """For the status: reads by source since the start (``local``: past this worker), bytes held by mount."""
    reads: dict[str, Detail] = {name: int(metrics.reads.value(name)) for name in READ_SOURCES}
    held: dict[str, Detail] = {}
    for number in range(len(store.tiers)):
        for mount, of_it in store.index.mounts(number).items():
            before = held.get(mount, 0)
            held[mount] = of_it.used_bytes + (before if isinstance(before, int) else 0)
    return {"reads": reads | {"local": int(metrics.hits.value("local"))}, "held_bytes": held}


def tiers_seen(store: Store) -> dict[str, dict[str, Detail]]:
    """For the status: the tier directories by their place in ``tier_dirs``."""
    return {
        f"tier{number}": {
            "tier": tier.spec.tier,
            "path": str(tier.spec.path),
            "in_memory": tier.in_memory,
            "capacity_bytes": tier.spec.capacity_bytes,
            "used_bytes": store.index.used(number),
            "in_service": store.index.is_in_service(number),
        }
        for number, tier in enumerate(store.tiers)
    }


def observe(metrics: Metrics, store: Store, scrubber: Scrubber) -> None:
    """Registers them all. ``number`` is the place of a directory in ``tier_dirs``; a mount without a name is one of
    blocks that were found without their mount."""
    tiers = [(tier.spec.tier.lower(), str(number)) for number, tier in enumerate(store.tiers)]

    def by_mount(value: Callable[[Held], int]) -> Callable[[], Series]:
        def read() -> Series:
            return {
                (*tiers[number], mount): float(value(held))
                for number in range(len(tiers))
                for mount, held in store.index.mounts(number).items()
            }

        return read

    def by_tier(value: Callable[[int], float]) -> Callable[[], Series]:
        return lambda: {labels: float(value(number)) for number, labels in enumerate(tiers)}

    mounts, labels = ("tier", "number", "mount"), ("tier", "number")
    held = by_tier(lambda n: sum(block.charge for block in store.index.held() if block.tier == n))
    metrics.observed_by("forebay_worker_tier_blocks", "Blocks held", mounts, by_mount(lambda held: held.blocks))
    metrics.observed_by("forebay_worker_tier_bytes", "Bytes of blocks", mounts, by_mount(lambda held: held.used_bytes))
    metrics.observed_by("forebay_worker_tier_used_bytes", "Bytes taken", labels, by_tier(store.index.used))
    metrics.observed_by("forebay_worker_tier_capacity_bytes", "Capacity", labels, by_tier(store.index.capacity))
    metrics.observed_by("forebay_worker_tier_held_bytes", "Bytes of unlinked files that are still open", labels, held)
    metrics.observed_by(
        "forebay_worker_scrub_progress_ratio",
        "Share of the blocks that the running scrub has looked at",
        labels,
        by_tier(lambda n: scrubber.progress[n].share),
    )
    metrics.observed_by(
        "forebay_worker_scrub_passes",
        "Passes of the scrubber since the start",
        labels,
        by_tier(lambda n: scrubber.progress[n].passes),
    )
    metrics.observed_by(
        "forebay_worker_quarantine_files",
        "Files found at start that were not ours",
        labels,
        by_tier(lambda n: store.restart.quarantines[n].files),
    )
    metrics.observed_by(
        "forebay_worker_quarantine_bytes",
        "Bytes of files found at start that were not ours",
        labels,
        by_tier(lambda n: store.restart.quarantines[n].size_bytes),
    )


def observe_lanes(metrics: Metrics, lanes: Lanes) -> None:
    """What tuning does with each source of fills."""
    labels = ("source",)
    metrics.observed_by("forebay_worker_fill_streams", "Requests that a source gets at once", labels, lanes.streams)
    metrics.observed_by("forebay_worker_fill_request_extents", "Extents of a request", labels, lanes.request_extents)
    metrics.observed_by("forebay_worker_fill_goodput_bytes_per_second", "Measured by tuning", labels, lanes.goodputs)
