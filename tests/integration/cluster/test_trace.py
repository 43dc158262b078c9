"""One trace from the mount to the workers and the under store, as a real OTLP receiver gets it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster
from forebay.testing.otlp import ReceivedSpan, otlp_receiver
from forebay.testing.s3 import S3Server
from tests.integration.cluster.kit import BLOCK_BYTES, digests, digests_of, fill_bucket, s3_cluster

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


def above(trace: list[ReceivedSpan], span: ReceivedSpan) -> list[ReceivedSpan]:
    """The spans that this one hangs below, the nearest first."""
    by_id, found = {s.span_id: s for s in trace}, []
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
        found.append(span)
    return found


def processes_to_s3(spans: list[ReceivedSpan]) -> list[str]:
    """From a GET of S3 up to the read of the mount: whose spans they are, once one worker asked another for it."""
    for get in (s for s in spans if s.name == "ufs read" and s.attributes.get("http.response.status_code") == "206"):
        path = above([s for s in spans if s.trace_id == get.trace_id], get)
        names = list(dict.fromkeys(s.instance for s in (get, *path)))
        if len(names) > 2 and path[-1].name == "fuse.read":
            return names
    return []


def who_looked(spans: list[ReceivedSpan]) -> list[str]:
    """From a HEAD of S3 up to the look at the mount: whose spans they are."""
    for head in (s for s in spans if s.name == "S3.HeadObject"):
        path = above([s for s in spans if s.trace_id == head.trace_id], head)
        if path and path[-1].name.startswith("fuse."):
            return list(dict.fromkeys(s.instance for s in (head, *path)))
    return []


def test_a_read_at_the_mount_is_one_trace_through_two_workers_to_the_get_of_s3(s3_server: S3Server) -> None:
    objects = {f"file-{number}": os.urandom(BLOCK_BYTES) for number in range(8)}
    bucket = fill_bucket(s3_server, objects)
    with otlp_receiver() as receiver:
        flags = ("--otlp-endpoint", receiver.endpoint, "--trace-ratio", "1")
        # half of the blocks are asked of a worker that does not own them
        extra = {"master": flags, "worker": flags, "gateway": (*flags, "--location-policy", "round-robin")}
        with s3_cluster(s3_server, bucket, short_circuit=False, extra=extra) as cluster:
            assert (cluster.mount / "file-0").stat().st_size == BLOCK_BYTES
            assert digests(cluster.mount) == digests_of(objects)
            spans = receiver.wait_for(lambda s: bool(processes_to_s3(s)) and bool(who_looked(s)), timeout_s=30)
    home, entry, gateway = processes_to_s3(spans)
    assert {home, entry} == {"worker-0", "worker-1"}
    assert gateway == "gateway"
    # and so is the look before it, through the master
    assert who_looked(spans) == ["master", "gateway"]
