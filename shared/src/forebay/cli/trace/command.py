"""The command: a tree with times, and what was slow in words."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.tree import Tree

from forebay.cli import output
from forebay.cli.api import Api, connected
from forebay.cli.door import errors
from forebay.cli.options import Json, Registry, where
from forebay.cli.trace import collect
from forebay.cli.trace.collect import Read
from forebay.cli.trace.tree import Node, build
from forebay.cli.trace.words import blames, label, milliseconds, place, said
from forebay.contracts.traces import KeptSpan
from forebay.telemetry import Metrics, SpanRing, Telemetry, Tracer

SHOWN_MAX = 200
"""Lines of the tree; ``--json`` has all."""

SERVICE = "forebay-cli"


def trace(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="a file of the namespace, or a file below a mount on this host")],
    as_json: Json = False,
    registry: Registry = None,
) -> None:
    """Read one file with tracing on: a tree of all that was done for it, and what was slow.

    Below a mount, the file is read through the kernel and the gateway (its pages are dropped first), else through the
    SDK. No collector is needed: each service keeps this trace for us.
    """
    with errors():
        telemetry = Telemetry(SERVICE, Metrics(), Tracer(None, 0.0, SpanRing(SERVICE, "this command")))
        mount = collect.mount_above(Path(path))
        address = registry
        if mount is not None and registry is None:
            address = str(collect.settings_of(mount)["registry"])

        async def work(api: Api) -> tuple[Read, list[KeptSpan], list[str]]:
            tracer = telemetry.tracer
            if mount is not None:
                read = await asyncio.to_thread(collect.read_at_mount, tracer, Path(path))
            else:
                read = await collect.read_by_sdk(api, tracer, path)
            trace_id = read.root.trace_id
            spans, silent = await collect.gather(api, trace_id)
            if mount is not None:
                spans += await asyncio.to_thread(collect.kept_by_gateway, mount, trace_id)
            return read, [*tracer.ring.of(trace_id), *spans], silent

        read, spans, silent = asyncio.run(connected(where(context, address), work, telemetry))
        show(read, build(spans, read.root.span_id), silent, as_json=as_json)


def show(read: Read, root: Node, silent: list[str], *, as_json: bool) -> None:
    """The tree, then the words."""
    spans = [node.span for _, node in root.walk()]
    lines = said(root, read.bytes_read, by_file=bool(read.bytes_read) and not asked_for_blocks(spans))
    lines += [f"{name} did not answer: its spans are missing." for name in silent]
    if as_json:
        output.show_json(_plain(read, root, lines, silent))
        return
    output.stdout().print(_drawn(root))
    for line in lines:
        output.say(line)


def asked_for_blocks(spans: list[KeptSpan]) -> bool:
    """Whether a worker served bytes in this trace."""
    return any(s.service == "forebay-worker" and s.attributes.get("http.request.method") == "GET" for s in spans)


def _drawn(root: Node) -> Tree:
    drawn = Tree(_line(root))
    above, left = [drawn], SHOWN_MAX
    for depth, node in root.walk():
        if depth == 0:
            continue
        if left == 0:
            drawn.add("… (--json has all)")
            break
        left -= 1
        del above[depth:]
        above.append(above[-1].add(_line(node)))
    return drawn


def _line(node: Node) -> str:
    took, at = milliseconds(node.end_s - node.begin_s), milliseconds(node.begin_s)
    return f"[bold]{took:>9}[/bold]  {escape(label(node))}  [dim]{escape(place(node.span))}, after {at}[/dim]"


def _plain(read: Read, root: Node, lines: list[str], silent: list[str]) -> dict[str, Any]:
    spans = [
        {**collect.as_plain(node.span), "begin_s": node.begin_s, "depth": depth, "label": label(node)}
        for depth, node in root.walk()
    ]
    return {
        "path": read.path,
        "trace_id": read.root.trace_id,
        "bytes": read.bytes_read,
        "took_s": root.end_s - root.begin_s,
        "spans": spans,
        "shares": [asdict(blame) for blame in blames(root)],
        "said": lines,
        "silent": silent,
    }
