"""The ``traceparent`` parser takes exactly what the recommendation allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forebay.telemetry import TraceContext, parse_traceparent

HEX = "0123456789abcdef"
trace_ids = st.text(HEX, min_size=32, max_size=32).filter(lambda t: t != "0" * 32)
span_ids = st.text(HEX, min_size=16, max_size=16).filter(lambda t: t != "0" * 16)
contexts = st.builds(TraceContext, trace_ids, span_ids, st.booleans())


@given(contexts)
def test_what_we_write_we_read(context: TraceContext) -> None:
    assert parse_traceparent(context.traceparent()) == context


@given(trace_ids, span_ids, st.integers(0, 255))
def test_only_the_sampled_bit_of_the_flags_counts(trace_id: str, span_id: str, flags: int) -> None:
    parsed = parse_traceparent(f"00-{trace_id}-{span_id}-{flags:02x}")

    assert parsed == TraceContext(trace_id, span_id, bool(flags & 1))


@given(contexts, st.integers(1, 254), st.text(HEX + "-", max_size=20))
def test_a_later_version_may_carry_more_after_a_dash(context: TraceContext, version: int, more: str) -> None:
    later = f"{version:02x}{context.traceparent()[2:]}"

    assert parse_traceparent(later) == context
    assert parse_traceparent(f"{later}-{more}") == context
    assert parse_traceparent(f"{later}0") is None


@given(contexts, st.text(max_size=20).filter(bool))
def test_version_00_carries_nothing_more(context: TraceContext, more: str) -> None:
    assert parse_traceparent(context.traceparent() + more) is None
    assert parse_traceparent(f"{context.traceparent()}-{more}") is None


@given(contexts, st.integers(0, 54), st.characters())
def test_one_wrong_character_is_garbage_or_another_context(context: TraceContext, at: int, wrong: str) -> None:
    text = context.traceparent()
    changed = text[:at] + wrong + text[at + 1 :]
    parsed = parse_traceparent(changed)

    if at in (2, 35, 52):
        assert parsed is None or wrong == "-"
    elif wrong not in HEX:
        assert parsed is None
    elif parsed is not None and changed[:2] == "00":
        assert parsed.traceparent()[:53] == changed[:53]


@given(st.one_of(st.none(), st.text(), st.text(HEX + "-", min_size=50, max_size=60)))
def test_garbage_gives_none_and_never_raises(text: str | None) -> None:
    parsed = parse_traceparent(text)

    assert parsed is None or parsed.trace_id in (text or "")


def test_forbidden_forms_are_refused() -> None:
    good_trace, good_span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

    for text in (
        f"ff-{good_trace}-{good_span}-01",
        f"00-{'0' * 32}-{good_span}-01",
        f"00-{good_trace}-{'0' * 16}-01",
        f"00-{good_trace.upper()}-{good_span}-01",
        f" 00-{good_trace}-{good_span}-01",
        f"00-{good_trace}-{good_span}-01\n",
        f"00-{good_trace}-{good_span}-1",
        f"01-{good_trace}-{good_span}-01-{'x' * 600}",
        "٠٠" + f"-{good_trace}-{good_span}-01",
        "",
    ):
        assert parse_traceparent(text) is None, text
