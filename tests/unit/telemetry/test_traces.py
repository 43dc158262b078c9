"""Spans and contexts: what a caller began goes on, and what nobody samples costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult

from forebay.telemetry import TraceContext, Tracer, current_context, parse_traceparent, quiet
from forebay.testing import run

REMOTE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
UNSAMPLED = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", False)


class Kept(SpanExporter):
    """Keeps finished spans."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += spans
        return SpanExportResult.SUCCESS


class Untouchable(Sampler):
    """Fails the test when the SDK is asked for any span: it asks its sampler first."""

    def should_sample(self, *args: object, **kwargs: object) -> SamplingResult:
        raise AssertionError("the SDK was entered")

    def get_description(self) -> str:
        return "untouchable"


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def tracer(kept: Kept) -> Tracer:
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Tracer(provider, 1.0)


def test_a_sampled_span_is_a_child_of_its_caller(tracer: Tracer, kept: Kept) -> None:
    with tracer.start("read", kind="server", parent=REMOTE, attributes={"http.request.method": "GET"}) as span:
        span.set("http.response.status_code", 206)

    (done,) = kept.spans
    assert done.parent is not None
    assert f"{done.parent.span_id:016x}" == REMOTE.span_id
    assert span.context.trace_id == REMOTE.trace_id
    assert span.context.sampled
    assert done.attributes == {"http.request.method": "GET", "http.response.status_code": 206}


def test_spans_nest_by_the_current_context(tracer: Tracer, kept: Kept) -> None:
    with tracer.start("outer", kind="internal") as outer:
        with tracer.start("inner", kind="client") as inner:
            assert tracer.current() == inner.context
        assert tracer.current() == outer.context

    assert tracer.current() is None
    done = {s.name: s for s in kept.spans}
    assert done["outer"].parent is None
    assert done["inner"].parent is not None
    assert f"{done['inner'].parent.span_id:016x}" == outer.context.span_id
    assert inner.context.trace_id == outer.context.trace_id


def test_a_root_begins_a_trace_of_its_own(tracer: Tracer) -> None:
    with tracer.start("outer", kind="internal") as outer, tracer.start("own", kind="internal", root=True) as own:
        assert own.context.trace_id != outer.context.trace_id


def test_an_error_that_leaves_a_span_fails_it(tracer: Tracer, kept: Kept) -> None:
    with pytest.raises(KeyError), tracer.start("x", kind="internal"):
        raise KeyError("gone")

    assert not kept.spans[0].status.is_ok
    assert dict(kept.spans[0].attributes or {})["error.type"] == "KeyError"
    assert current_context() is None


def test_a_span_can_be_failed_by_name(tracer: Tracer, kept: Kept) -> None:
    with tracer.start("x", kind="internal") as span:
        span.fail("503")

    assert dict(kept.spans[0].attributes or {})["error.type"] == "503"
    assert not kept.spans[0].status.is_ok


def test_an_unsampled_request_never_enters_the_sdk() -> None:
    tracer = Tracer(TracerProvider(sampler=Untouchable(), shutdown_on_exit=False), 0.0)

    with tracer.start("server", kind="server", parent=UNSAMPLED) as server:
        with tracer.start("client", kind="client", attributes={"a": 1}) as client:
            client.set("k", "v")
            client.fail("x")
        assert server.context == UNSAMPLED

    with tracer.start("own", kind="internal", root=True) as own:
        assert not own.context.sampled


def test_without_an_exporter_a_sampled_caller_is_passed_on_unchanged() -> None:
    with quiet().tracer.start("server", kind="server", parent=REMOTE) as span:
        assert span.context == REMOTE


def test_every_trace_has_ids_of_its_own_even_unsampled() -> None:
    tracer = quiet().tracer

    contexts = set()
    for _ in range(100):
        with tracer.start("x", kind="internal") as span:
            contexts.add(span.context)

    assert len({c.trace_id for c in contexts}) == 100
    assert all(parse_traceparent(c.traceparent()) == c for c in contexts)


def test_concurrent_tasks_have_contexts_of_their_own() -> None:
    tracer = quiet().tracer

    async def one() -> bool:
        with tracer.start("x", kind="internal") as span:
            await asyncio.sleep(0)
            return tracer.current() == span.context

    async def main() -> list[bool]:
        return list(await asyncio.gather(*(one() for _ in range(5))))

    assert all(run(main()))


def test_the_ratio_decides_once_at_the_root() -> None:
    provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    tracer = Tracer(provider, 0.5)

    agree = []
    for _ in range(200):
        with tracer.start("root", kind="internal") as root, tracer.start("child", kind="internal") as child:
            agree.append((root.context.sampled, child.context.sampled))

    assert all(a == b for a, b in agree)
    assert 50 < sum(a for a, _ in agree) < 150
