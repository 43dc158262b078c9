"""Figures of moving bytes between processes: a real worker beside nginx before one client, and RPCs beside bulk.

The worker is one of a cluster that holds the file warm, asked as readers ask it (ticket, range, telemetry on); nginx
serves the same bytes from tmpfs. The client is the same process image with the same limits for both.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.figures import Figure, Options, Run, compare, environment
from bench.first_transport import BLOB_BYTES, NGINX_CONFIG, NGINX_SHOWN, QUICK_BYTES, Side, blob_file, nginx, side
from forebay.cli.cluster import ClusterSpec, LocalCluster
from forebay.client.wanted import FileVersion
from forebay.contracts import LookupReply, LookupRequest, TicketReply, TicketRequest
from forebay.contracts.blocks import TICKET_HEADER, block_path
from forebay.runtime import Deadline
from forebay.transport import HttpClient

RUN_BYTES = 1 << 30
STREAMS = 4
RPCS = 400
QUICK_RPCS = 50
BULK_STREAMS = (0, 1, 4, 16)
GOAL = 0.9


@contextmanager
def warm_worker(blob: Path) -> Iterator[tuple[LocalCluster, int, dict[str, Any]]]:
    """A cluster whose one worker holds ``blob`` in memory: the cluster, the worker's port, what to ask it for."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as text:
        source = Path(text)
        shutil.copy(blob, source / "blob")
        spec = ClusterSpec(
            mounts=(f"/=file://{source}",), ufs_roots=(f"file://{source}",), worker_mem_bytes=2 * BLOB_BYTES
        )
        with LocalCluster(spec) as cluster:
            target = asyncio.run(_warmed(cluster, blob.stat().st_size))
            yield cluster, cluster.children["worker-0"].spec.port, target


async def _warmed(cluster: LocalCluster, size: int) -> dict[str, Any]:
    """Reads the file once; path and headers for reading it again."""
    client, deadline = HttpClient(None), Deadline.after(60)
    master, worker = cluster.address("master"), cluster.address("worker-0")
    try:
        found = await client.call(master, "/v1/lookup", LookupRequest(path="/blob"), LookupReply, deadline=deadline)
        assert found.entry.layout is not None
        assert found.mount_id is not None
        file = FileVersion(found.mount_id, found.entry.layout, "/blob")
        asked = TicketRequest(path="/blob", client_id="bench")
        ticket = await client.call(master, "/v1/tickets", asked, TicketReply, deadline=deadline)
        path, headers = block_path(file.block_id(0), file.target(0)), {TICKET_HEADER: ticket.ticket}
        reply = await client.read_into(worker, path, memoryview(bytearray(size)), deadline=deadline, headers=headers)
        assert reply.length == size
    finally:
        await client.close()
    return {"path": path, "headers": headers}


def _reader(stack: ExitStack, port: int, blob: Path, target: dict[str, Any]) -> Side:
    """The client of both sides."""
    limits = json.dumps({"data_streams_max": STREAMS})
    arguments = ("--blob", str(blob), "--target", json.dumps(target), "--limits", limits)
    return stack.enter_context(side("client", "ours", "--port", str(port), *arguments))


def _remote_vs_nginx(options: Options, streams: int) -> Figure:
    total = QUICK_BYTES if options.quick else RUN_BYTES
    name = f"remote_vs_nginx_{streams}"
    cpu_s: dict[str, list[float]] = {"ours": [], "theirs": []}

    def run(reader: Side, which: str) -> Run:
        def rate() -> float:
            answer = reader.ask(op="blocks", bytes=total, streams=streams)
            cpu_s[which].append(answer["cpu_s"] * (1 << 30) / total)
            return answer["rate"] / 1e6

        return rate

    with ExitStack() as stack:
        blob = stack.enter_context(blob_file())
        cluster, port, target = stack.enter_context(warm_worker(blob))
        ours = _reader(stack, port, blob, target)
        theirs = _reader(stack, stack.enter_context(nginx(blob)), blob, {})
        before_s = _cpu_s(cluster)
        ratio = compare(run(ours, "ours"), run(theirs, "theirs"), goal=GOAL, options=options, name=f"moving.{name}")
        worker_s = (_cpu_s(cluster) - before_s) / (len(cpu_s["ours"]) * total) * (1 << 30)
    settings = " ".join(line.strip() for line in NGINX_CONFIG.splitlines() if any(key in line for key in NGINX_SHOWN))
    detail = ratio.detail("MBps") | {
        "streams": streams,
        "client_cpu_s_per_gib": {key: round(sum(found) / len(found), 3) for key, found in cpu_s.items()},
        "worker_cpu_s_per_gib": round(worker_s, 3),
        "theirs_settings": f"nginx: {settings}",
        "versions": environment("aiohttp", "uvloop", "hpack"),
    }
    return Figure("moving", name, ratio.value, goal=GOAL, detail=detail)


def _cpu_s(cluster: LocalCluster) -> float:
    """CPU seconds of the worker so far."""
    fields = Path(f"/proc/{cluster.children['worker-0'].pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def remote_vs_nginx_1(options: Options) -> Figure:
    """Warm 4 MiB ranges, one after the other: from a worker over from nginx."""
    return _remote_vs_nginx(options, 1)


def remote_vs_nginx_4(options: Options) -> Figure:
    """The same with four under way on one connection."""
    return _remote_vs_nginx(options, STREAMS)


def rpc_beside_bulk_ms(options: Options) -> Figure:
    """The 99th percentile of small RPCs to a peer while bulk reads from it run; no goal."""
    count = QUICK_RPCS if options.quick else RPCS
    found: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        blob = stack.enter_context(blob_file())
        server = stack.enter_context(side("server", "ours", "--blob", str(blob)))
        port = server.line()
        for cap in (2, STREAMS):
            limits = json.dumps({"data_streams_max": cap})
            client = stack.enter_context(
                side("client", "ours", "--port", port, "--blob", str(blob), "--limits", limits)
            )
            for streams in BULK_STREAMS:
                answer = client.ask(op="beside", count=count, streams=streams)
                shown = {"p50_ms": answer["p50_ms"], "p99_ms": answer["p99_ms"], "bulk_MBps": answer["bulk_rate"] / 1e6}
                found[f"cap {cap}, {streams} readers"] = {key: round(value, 2) for key, value in shown.items()}
    value = found[f"cap 2, {BULK_STREAMS[-1]} readers"]["p99_ms"]
    detail = found | {"versions": environment("uvloop")}
    return Figure("moving", "rpc_beside_bulk_ms", value, unit="ms", lower_is_better=True, detail=detail)


FIGURES = {
    "remote_vs_nginx_1": remote_vs_nginx_1,
    "remote_vs_nginx_4": remote_vs_nginx_4,
    "rpc_beside_bulk_ms": rpc_beside_bulk_ms,
}
