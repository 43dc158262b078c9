"""A mount is read on for longer than its ticket lives while the only master is dead."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.slow, pytest.mark.fuse]
TTL_S = 2.0
LEEWAY_S = 1.0
BLOCK_BYTES = 4 << 20
BLOCKS = 6


def test_reads_outlive_the_ticket_of_a_dead_master_by_the_workers_grace(tmp_path: Path) -> None:
    body = os.urandom(BLOCKS * BLOCK_BYTES)
    (tmp_path / "file").write_bytes(body)
    extra = {
        "master": ("--ticket-ttl-s", str(TTL_S), "--block-size", str(BLOCK_BYTES)),
        "worker": ("--ticket-leeway-s", str(LEEWAY_S)),
        "gateway": ("--direct-io", "--readahead", "0"),
    }
    spec = replace(Cluster.spec(f"file://{tmp_path}", extra=extra), short_circuit=False)
    with Cluster(spec, mounts=1) as cluster, (cluster.mount / "file").open("rb", buffering=0) as file:
        assert file.read(4096) == body[:4096]
        # when the master dies, and the ticket has ended
        cluster.kill("master")
        ended_s = time.monotonic() + TTL_S + LEEWAY_S
        eventually(lambda: time.monotonic() > ended_s, what="the ticket's end", timeout_s=30)
        # then every block is read, none of which had been asked for before
        for index in range(1, BLOCKS):
            began_s = time.monotonic()
            at = index * BLOCK_BYTES + 100
            assert os.pread(file.fileno(), 4096, at) == body[at : at + 4096]
            assert time.monotonic() - began_s < 15.0
