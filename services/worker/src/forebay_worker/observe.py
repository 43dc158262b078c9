"""What the worker counts: instruments by name, in one place."""

from __future__ import annotations

from forebay.telemetry import Metrics


class WorkerMetrics:
    """All ``forebay_worker_*`` instruments that code counts into; what is read at collection is registered in app."""

    def __init__(self, metrics: Metrics) -> None:
        self.served = metrics.counter(
            "forebay_worker_served_bytes_total", "Bytes of blocks sent, by where they came from", ("source",)
        )
        self.reads = metrics.counter(
            "forebay_worker_reads_total", "Reads answered, by source of their start", ("source",)
        )
        self.filled = metrics.counter("forebay_worker_filled_bytes_total", "Bytes written into tiers", ("source",))
        self.fill_runs = metrics.counter("forebay_worker_fill_runs_total", "Requests to fill sources", ("outcome",))
        self.fill_decisions = metrics.counter(
            "forebay_worker_fill_decisions_total", "What tuning decided, by source", ("source", "reason")
        )
        self.joins = metrics.counter(
            "forebay_worker_fill_joins_total", "Extents that a read found already on their way (single-flight)"
        )
        self.evictions = metrics.counter(
            "forebay_worker_evictions_total", "Blocks evicted or freed, and why", ("tier", "policy", "cause")
        )
        self.evicted_bytes = metrics.counter("forebay_worker_evicted_bytes_total", "Bytes of evicted blocks", ("tier",))
        self.refused = metrics.counter(
            "forebay_worker_admissions_refused_total", "Blocks served without being kept", ("reason",)
        )
        self.tier_errors = metrics.counter(
            "forebay_worker_tier_errors_total", "Failures of tier directories", ("tier",)
        )
        self.tier_in_service = metrics.gauge(
            "forebay_worker_tier_in_service",
            "Whether a tier directory takes new blocks (1) or erred (0)",
            ("tier", "number"),
        )
        self.promotions = metrics.counter("forebay_worker_promotions_total", "Blocks moved from a disk to memory")
        self.demotions = metrics.counter("forebay_worker_demotions_total", "Blocks moved from memory to a disk")
        self.moved = metrics.counter("forebay_worker_moved_bytes_total", "Bytes of moved blocks, by new tier", ("to",))
        self.scrubbed = metrics.counter(
            "forebay_worker_scrubbed_bytes_total", "Bytes compared with their checksums by the scrubber", ("tier",)
        )
        self.corrupt = metrics.counter(
            "forebay_worker_corrupt_blocks_total", "Blocks dropped because their bytes had rotted", ("tier", "found_by")
        )
        self.refills = metrics.counter(
            "forebay_worker_refills_total", "Rotten blocks filled again without being read", ("outcome",)
        )
        self.touches = metrics.counter(
            "forebay_worker_touches_total", "Blocks in touch reports, by whether they are here", ("known",)
        )
        self.hits = metrics.counter(
            "forebay_worker_hits_total",
            "Reads that found their bytes here; local: opened by a gateway or SDK",
            ("source",),
        )
