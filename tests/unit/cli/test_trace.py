"""A trace as a tree, its shares, and what is said about them."""

from __future__ import annotations

from typing import Any

import pytest

from forebay.cli.trace.tree import build, stretches
from forebay.cli.trace.words import blames, label, said
from forebay.contracts.traces import KeptSpan

MIB = 1 << 20


def span(name: str, parent: str | None, begin_s: float, took_s: float, **more: Any) -> KeptSpan:
    given: dict[str, Any] = {"service": "forebay-cli", "member_id": "here", "kind": "internal", "name": name}
    given |= {
        "trace_id": "t",
        "span_id": name,
        "attributes": {},
        "parent_id": parent,
        "started_s": 1000 + begin_s,
        "took_s": took_s,
    }
    return KeptSpan(**(given | more))


def worker(name: str, parent: str, begin_s: float, took_s: float, **more: Any) -> KeptSpan:
    return span(name, parent, begin_s, took_s, **{"service": "forebay-worker", "member_id": "w1", **more})


def cold() -> list[KeptSpan]:
    """A second of reading, eight tenths of it the under store's; the worker's clock is five minutes ahead."""
    wire = {"kind": "client", "attributes": {"server.address": "w1:7071", "url.path": "/v1/blocks/x"}}
    seen = {"http.request.method": "GET", "server.address": "s3", "http.response.status_code": 206}
    return [
        span("read", None, 0, 1),
        span("GET", "read", 0.05, 0.9, **wire),
        worker("served", "GET", 300, 0.88, kind="server", attributes={"http.request.method": "GET"}),
        worker("ufs read", "served", 300.04, 0.8, kind="client", attributes=seen),
    ]


def test_a_span_by_a_clock_that_is_wrong_lies_in_the_middle_of_its_caller() -> None:
    root = build(cold(), "read")

    places = {node.span.name: (round(node.begin_s, 3), round(node.end_s, 3)) for _, node in root.walk()}
    assert places == {"read": (0, 1), "GET": (0.05, 0.95), "served": (0.06, 0.94), "ufs read": (0.1, 0.9)}


def test_the_shares_add_up_to_the_whole_and_name_who_had_most() -> None:
    root = build(cold(), "read")

    assert sum(s.end_s - s.begin_s for s in stretches(root)) == pytest.approx(1)
    found = blames(root)
    assert [blame.kind for blame in found] == ["under store", "client", "worker", "network"]
    assert found[0].seconds == pytest.approx(0.8)
    assert sum(blame.seconds for blame in found) == pytest.approx(1)


def test_in_words_the_under_store_was_slow_and_what_helps_is_said() -> None:
    lines = said(build(cold(), "read"), 8 * MIB)

    assert lines[0] == "8.0 MiB in 1.00 s, 8.0 MiB/s."
    assert lines[1] == "800.0 ms (80 %) had the under store at s3, asked by w1."
    assert "forebay load" in lines[-1]


def test_a_worker_that_waits_for_anothers_bytes_waits_for_the_under_store() -> None:
    other = worker("other", "GET", 300, 0.86, kind="server", attributes={"http.request.method": "GET"})
    spans = [s for s in cold() if s.name != "ufs read"]
    fetched = worker("ufs read", "other", 300.04, 0.8, kind="client")
    found = {blame.kind: blame.seconds for blame in blames(build([*spans, other, fetched], "read"))}

    assert found["under store"] > 0.6
    assert sum(found.values()) == pytest.approx(1)


def test_reads_side_by_side_are_not_counted_twice() -> None:
    halves = [worker(f"ufs {n}", "served", 300.04, 0.8, kind="client") for n in range(2)]
    found = blames(build([s for s in cold() if s.name != "ufs read"] + halves, "read"))

    assert found[0].kind == "under store"
    assert found[0].calls == 2
    assert found[0].seconds == pytest.approx(0.8)


def test_a_span_whose_caller_nobody_kept_is_shown_with_a_word_about_it() -> None:
    root = build([span("read", None, 0, 1), worker("served", "lost", 0.2, 0.1, kind="server")], "read")

    (_, child) = list(root.walk())[1]
    assert child.is_orphan
    assert "missing" in label(child)


def test_a_quick_read_has_nothing_slow_and_a_failure_is_named() -> None:
    quick = [span("read", None, 0, 0.001), worker("served", "read", 0, 0.0005, error="TierFailed")]

    lines = said(build(quick, "read"), 100)

    assert "Nothing was slow." in lines
    assert "worker w1: served failed (TierFailed)." in lines
