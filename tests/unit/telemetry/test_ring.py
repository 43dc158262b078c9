"""Traces that are kept: recorded with no collector, by who was told to and nobody else."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from forebay.telemetry import KEEP, SpanRing, TraceContext, Tracer, parse_traceparent

CALLER = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True, True)


def test_a_kept_trace_is_recorded_without_a_collector_and_other_traces_are_not() -> None:
    ring = SpanRing("worker", "w1")
    tracer = Tracer(None, 0.0, ring)
    with tracer.start("served", kind="server", parent=CALLER) as outer, tracer.start("inner", kind="client") as inner:
        inner.set("n", 1)
    with tracer.start("other", kind="server", parent=TraceContext("ab" * 16, "cd" * 8, True)):
        pass

    below, above = ring.of(CALLER.trace_id)
    assert (below.name, below.parent_id, below.attributes) == ("inner", outer.context.span_id, {"n": 1})
    assert (above.name, above.parent_id, above.member_id) == ("served", CALLER.span_id, "w1")
    assert above.took_s >= below.took_s >= 0
    assert len(ring.all()) == 2


def test_the_next_hop_is_told_to_keep_it_only_if_it_is_kept() -> None:
    assert parse_traceparent(CALLER.traceparent(), KEEP) == CALLER
    assert parse_traceparent(CALLER.traceparent(), f"a=b, {KEEP}") == CALLER
    for state in (None, "", "forebay=keeper", "x" * 600 + f",{KEEP}"):
        found = parse_traceparent(CALLER.traceparent(), state)
        assert found is not None
        assert not found.kept
    unsampled = parse_traceparent(f"00-{CALLER.trace_id}-{CALLER.span_id}-00", KEEP)
    assert unsampled is not None
    assert not unsampled.kept


def test_a_root_is_kept_when_asked_and_an_error_and_a_drop_are_taken_down() -> None:
    tracer = Tracer(None, 0.0)
    with tracer.start("read", kind="internal", keep=True) as root:
        with tracer.start("nothing", kind="internal") as span:
            span.drop()
        root.fail(KeyError())
    (found,) = tracer.ring.of(root.context.trace_id)
    assert (found.name, found.parent_id, found.error) == ("read", None, "KeyError")


def test_a_collector_and_the_ring_know_a_kept_span_by_one_id() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = Tracer(provider, 0.0)
    with tracer.start("served", kind="server", parent=CALLER), tracer.start("inner", kind="client"):
        pass

    ours = {(s.name, s.span_id, s.parent_id) for s in tracer.ring.of(CALLER.trace_id)}
    theirs = {
        (s.name, f"{s.context.span_id:016x}", f"{s.parent.span_id:016x}")
        for s in exporter.get_finished_spans()
        if s.context and s.parent
    }
    assert ours == theirs
    assert len(ours) == 2


def test_the_ring_forgets_the_oldest() -> None:
    tracer = Tracer(None, 0.0, SpanRing(spans_max=3))
    for n in range(5):
        with tracer.start(str(n), kind="internal", parent=CALLER):
            pass
    assert [span.name for span in tracer.ring.all()] == ["2", "3", "4"]
