"""Instruments, their bounds, and their Prometheus form."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

import pytest

from forebay.errors import InternalError
from forebay.telemetry import Metrics
from forebay.telemetry.metrics import OVERFLOW, SERIES_MAX, prometheus_name

GOLDEN = Path(__file__).parent / "golden" / "metrics.txt"


def example() -> Metrics:
    """One instrument of each kind, with values."""
    metrics = Metrics()
    reads = metrics.counter("forebay_worker_reads_total", "Reads answered.", ("source",))
    reads.add(3, "mem")
    reads.add(1, 'odd "quoted"\\ value\n')
    metrics.counter("forebay_worker_restarts_total", "Never touched.")
    open_files = metrics.gauge("forebay_worker_open_files", "Files open now.")
    open_files.add(2)
    open_files.add(-1.5)
    metrics.gauge("forebay_worker_streams", "Streams per UFS.", ("ufs",)).set(4, "s3")
    metrics.observed("forebay_worker_used_bytes", "Bytes in tiers.", lambda: 1 << 40)
    durations = metrics.histogram(
        "http.server.request.duration", "Time to answer.", ("http.request.method",), buckets=(0.001, 0.1, 1.0)
    )
    for seconds in (0.0005, 0.001, 0.05, 7.0):
        durations.observe(seconds, "GET")
    return metrics


def test_what_one_thread_counts_without_the_lock_is_part_of_its_series() -> None:
    counter = Metrics().counter("forebay_worker_reads_total", "Reads answered.", ("source",))
    cell = counter.cell("mem")
    cell.count += 2
    counter.add(3, "mem")
    counter.add(1, "disk")
    assert counter.cell("mem") is cell
    assert (counter.value("mem"), counter.value("none")) == (5, 0)
    assert counter.values() == {("mem",): 5, ("disk",): 1}
    with pytest.raises(InternalError):
        counter.cell()


def test_the_metrics_page_has_its_golden_form() -> None:
    assert example().render().decode() == GOLDEN.read_text()


def test_the_same_name_gives_the_same_instrument() -> None:
    metrics = Metrics()

    first = metrics.counter("forebay_x_total", "x", ("a",))

    assert metrics.counter("forebay_x_total", "x", ("a",)) is first
    assert metrics.gauge("forebay_g", "g") is metrics.gauge("forebay_g", "g")
    assert metrics.histogram("forebay_h_seconds", "h") is metrics.histogram("forebay_h_seconds", "h")


def test_a_name_is_not_given_to_two_kinds_or_label_sets() -> None:
    metrics = Metrics()
    metrics.gauge("forebay_x", "x", ("a",))

    with pytest.raises(InternalError, match="forebay_x"):
        metrics.histogram("forebay_x", "x")
    with pytest.raises(InternalError, match="forebay_x"):
        metrics.gauge("forebay_x", "x", ("b",))
    with pytest.raises(InternalError, match="forebay_x"):
        metrics.observed("forebay_x", "x", lambda: 0)


@pytest.mark.parametrize(
    "name", ["forebay_reads", "Forebay_total", "forebay reads_total", "_total", "forebay__x_total"]
)
def test_a_counter_is_named_by_the_rules(name: str) -> None:
    with pytest.raises(InternalError):
        Metrics().counter(name, "bad")


@pytest.mark.parametrize("buckets", [(), (1.0, 1.0), (2.0, 1.0)])
def test_bucket_bounds_rise(buckets: tuple[float, ...]) -> None:
    with pytest.raises(InternalError):
        Metrics().histogram("forebay_h_seconds", "h", buckets=buckets)


def test_a_counter_does_not_fall() -> None:
    counter = Metrics().counter("forebay_x_total", "x")

    with pytest.raises(InternalError):
        counter.add(-1)


def test_a_wrong_number_of_labels_is_refused() -> None:
    metrics = Metrics()

    with pytest.raises(InternalError):
        metrics.counter("forebay_x_total", "x", ("a",)).add(1)
    with pytest.raises(InternalError):
        metrics.gauge("forebay_y", "y").set(1, "a")
    with pytest.raises(InternalError):
        metrics.histogram("forebay_z_seconds", "z").observe(1, "a")


def test_label_sets_above_the_limit_are_counted_together() -> None:
    counter = Metrics().counter("forebay_x_total", "x", ("a", "b"))

    for i in range(SERIES_MAX + 5):
        counter.add(1, str(i), "b")

    assert len(counter.values()) == SERIES_MAX + 1
    assert counter.value(OVERFLOW, OVERFLOW) == 5


def test_histogram_label_sets_above_the_limit_are_counted_together() -> None:
    histogram = Metrics().histogram("forebay_x_seconds", "x", ("a",))

    for i in range(SERIES_MAX + 5):
        histogram.observe(1.0, str(i))

    series = histogram.distributions()
    assert len(series) == SERIES_MAX + 1
    assert series[(OVERFLOW,)].count == 5


def test_a_gauge_read_anew_forgets_the_old_reader() -> None:
    metrics = Metrics()
    metrics.observed("forebay_x", "x", lambda: 1)

    metrics.observed("forebay_x", "x", lambda: 2)

    assert b"forebay_x 2.0" in metrics.render()


def test_updates_from_many_threads_are_all_counted() -> None:
    metrics = Metrics()
    counter, gauge = metrics.counter("forebay_x_total", "x"), metrics.gauge("forebay_g", "g")
    histogram = metrics.histogram("forebay_h_seconds", "h")

    def work() -> None:
        for _ in range(2000):
            counter.add(1)
            gauge.add(1)
            histogram.observe(0.01)
            gauge.add(-1)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counter.value() == 8000
    assert gauge.value() == 0
    assert histogram.distributions()[()].count == 8000


def test_a_forked_child_can_count() -> None:
    counter = Metrics().counter("forebay_x_total", "x")
    counter.add(1)

    pid = os.fork()
    if pid == 0:
        counter.add(1)
        os._exit(int(counter.value()))

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2
    assert counter.value() == 1


def test_dotted_names_get_their_unit() -> None:
    assert prometheus_name("http.client.request.duration") == "http_client_request_duration_seconds"
    assert prometheus_name("http.server.response.body.size") == "http_server_response_body_size_bytes"
    assert prometheus_name("forebay_worker_used_bytes") == "forebay_worker_used_bytes"


def test_a_gauge_with_labels_is_read_when_somebody_looks() -> None:
    metrics = Metrics()
    now: dict[tuple[str, ...], float] = {("a",): 1.0}
    metrics.observed_by("forebay_test_things", "Things", ("kind",), lambda: now)
    now[("b",)] = 2.0
    assert b'forebay_test_things{kind="a"} 1.0' in metrics.render()
    assert b'forebay_test_things{kind="b"} 2.0' in metrics.render()
    metrics.observed_by("forebay_test_things", "Things", ("kind",), lambda: {("c",): 3.0})
    assert b'kind="a"' not in metrics.render()
    assert b'forebay_test_things{kind="c"} 3.0' in metrics.render()
