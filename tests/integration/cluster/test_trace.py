"""One trace from the mount to the worker, as a real OTLP receiver gets it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster
from forebay.testing.otlp import ReceivedSpan, otlp_receiver

pytestmark = [pytest.mark.slow, pytest.mark.fuse]


def of_one_trace(spans: list[ReceivedSpan]) -> dict[str, list[ReceivedSpan]] | None:
    """The spans of a read's trace by service, once both ends of it are there."""
    for read in (s for s in spans if s.service == "forebay-fuse" and s.name == "fuse.read"):
        trace = [s for s in spans if s.trace_id == read.trace_id]
        by_service = {name: [s for s in trace if s.service == name] for name in {s.service for s in trace}}
        if any("/v1/blocks" in str(s.attributes) + s.name for s in by_service.get("forebay-worker", [])):
            return by_service
    return None


def test_a_read_at_the_mount_is_one_trace_through_gateway_and_worker(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x" * 3_000_000)
    with otlp_receiver() as receiver:
        flags = ("--otlp-endpoint", receiver.endpoint, "--trace-ratio", "1")
        extra = {"master": flags, "worker": flags, "gateway": flags}
        with Cluster.of_folder(source, mounts=1, short_circuit=False, extra=extra) as cluster:
            subprocess.run(["cat", cluster.mount / "file"], stdout=subprocess.DEVNULL, check=True, timeout=60)
            spans = receiver.wait_for(lambda s: of_one_trace(s) is not None, timeout_s=30)
    trace = of_one_trace(spans)
    assert trace is not None
    ids = {span.span_id for spans in trace.values() for span in spans}
    # every span of the worker hangs below one of the same trace
    assert all(span.parent_id in ids for span in trace["forebay-worker"])
    assert any(span.service == "forebay-fuse" and span.parent_id for span in trace["forebay-fuse"])
