"""OTLP export: what arrives at a collector, and that a dead one is no burden."""

from __future__ import annotations

import threading
import time

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from forebay.telemetry import SHUTDOWN_S, setup
from forebay.telemetry.export import otel_unit
from forebay.testing.otlp import otlp_receiver
from forebay.testing.tools import free_ports


def test_spans_and_metrics_arrive_at_the_collector() -> None:
    with otlp_receiver() as receiver:
        telemetry = setup("forebay-worker", member_id="w1", otlp_endpoint=receiver.endpoint, sample_ratio=1.0)
        reads = telemetry.metrics.counter("forebay_worker_reads_total", "Reads.", ("source",))
        reads.add(2, "mem")
        telemetry.metrics.gauge("forebay_worker_streams", "Streams.").set(3)
        telemetry.metrics.observed("forebay_worker_used_bytes", "Used.", lambda: 7)
        durations = telemetry.metrics.histogram("http.server.request.duration", "Time.", ("http.route",), (0.1, 1.0))
        durations.observe(0.05, "/v1/status")
        durations.observe(5.0, "/v1/status")
        with telemetry.tracer.start("outer", kind="server") as outer, telemetry.tracer.start("inner", kind="client"):
            pass
        telemetry.shutdown()

        spans = {s.name: s for s in receiver.spans()}
        points = {p.name: p for p in receiver.points()}
    assert spans["outer"].service == "forebay-worker"
    assert (spans["outer"].kind, spans["inner"].kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert spans["inner"].parent_id == spans["outer"].span_id == outer.context.span_id
    assert (points["forebay_worker_reads_total"].value, points["forebay_worker_reads_total"].kind) == (2, "sum")
    assert points["forebay_worker_reads_total"].attributes == {"source": "mem"}
    assert points["forebay_worker_streams"].value == 3
    assert points["forebay_worker_used_bytes"].value == 7
    assert points["http.server.request.duration"].buckets == (1, 0, 1)
    assert points["http.server.request.duration"].value == pytest.approx(5.05)
    assert points["http.server.request.duration"].attributes == {"http.route": "/v1/status"}


def test_without_an_endpoint_no_thread_runs() -> None:
    before = threading.active_count()

    telemetry = setup("forebay-worker", member_id="w1", sample_ratio=1.0)
    with telemetry.tracer.start("x", kind="server") as span:
        telemetry.metrics.counter("forebay_x_total", "x").add(1)
    telemetry.shutdown()

    assert threading.active_count() == before
    assert not span.context.sampled


def test_a_dead_collector_neither_slows_spans_nor_holds_up_the_end() -> None:
    (port,) = free_ports(1)
    telemetry = setup("forebay-worker", member_id="w1", otlp_endpoint=f"http://127.0.0.1:{port}", sample_ratio=1.0)

    slowest_s = 0.0
    for _ in range(2000):
        start_s = time.perf_counter()
        with telemetry.tracer.start("x", kind="internal"):
            pass
        slowest_s = max(slowest_s, time.perf_counter() - start_s)
    start_s = time.perf_counter()
    telemetry.shutdown()

    assert slowest_s < 2  # an export waits for 5 s; a loaded machine stalls for half a second
    assert time.perf_counter() - start_s < SHUTDOWN_S + 1


def test_units_come_from_names() -> None:
    assert otel_unit("http.server.request.duration") == "s"
    assert otel_unit("forebay_worker_fill_seconds") == "s"
    assert otel_unit("forebay_worker_fill_bytes_total") == "By"
    assert otel_unit("forebay_worker_streams") == ""
