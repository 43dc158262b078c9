"""What a master counts. Labels are few and fixed: no path, no mount, no client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from forebay.errors import ForebayError
from forebay.telemetry import Counter, Histogram, Metrics


class Meters:
    """The instruments of one master."""

    def __init__(self, metrics: Metrics) -> None:
        answers = ("outcome",)
        self.lookups = metrics.counter(
            "forebay_master_lookups_total", "Lookups by where the answer came from, or the error code", answers
        )
        self.lists = metrics.counter(
            "forebay_master_lists_total", "Pages of listings by where they came from, or the error code", answers
        )
        self.trees = metrics.counter(
            "forebay_master_trees_total", "Pages that span directories: done, or the error code", answers
        )
        self.entries = metrics.counter("forebay_master_listed_entries_total", "Entries given in pages of listings")
        self.page_seconds = metrics.histogram(
            "forebay_master_page_build_seconds", "Reading and building one page on a database thread"
        )
        self.tickets = metrics.counter(
            "forebay_master_tickets_total", "Tickets asked for: issued, or the error code", answers
        )
        self.syncs = metrics.counter(
            "forebay_master_syncs_total", "Listings of a directory in its under store: done, or the error code", answers
        )
        self.sync_seconds = metrics.histogram("forebay_master_sync_seconds", "One whole listing of one directory")
        self.synced_entries = metrics.counter("forebay_master_synced_entries_total", "Names taken from under stores")
        self.refused_entries = metrics.counter(
            "forebay_master_refused_entries_total", "Names that no reply can carry, left out of listings"
        )
        self.stats = metrics.counter(
            "forebay_master_stats_total",
            "Single names asked of under stores: found, missing, or the error code",
            answers,
        )


@contextmanager
def counting_errors(counter: Counter) -> Iterator[None]:
    """Counts an error that passes under its code; the good outcome is the body's to count."""
    try:
        yield
    except ForebayError as e:
        counter.add(1, e.code)
        raise


@contextmanager
def timing(histogram: Histogram) -> Iterator[None]:
    """Observes how long the body took, however it ended."""
    begun_s = perf_counter()
    try:
        yield
    finally:
        histogram.observe(perf_counter() - begun_s)
