"""What a trace says in words: who had the read's time, and what that means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forebay.cli.output import share, size
from forebay.cli.trace.tree import Node, stretches, within
from forebay.contracts.traces import KeptSpan

SLOW_SHARE = 0.1
"""What had less of the time than this is not named as slow."""

QUICK_S = 0.005
"""A read that took less has nothing slow about it."""

UFS, WORKER, MASTER, GATEWAY, CLIENT, NETWORK = "under store", "worker", "master", "gateway", "client", "network"


@dataclass(frozen=True)
class Blame:
    """Who had how much of the time. ``calls`` spans of it are in the trace, the longest took ``longest_s``."""

    kind: str
    who: str
    seconds: float
    calls: int
    longest_s: float


def kind_of(span: KeptSpan) -> str:
    """Which part of the system a span is about."""
    if span.name.startswith(("ufs ", "S3.")):
        return UFS
    if span.kind == "client":
        return NETWORK
    return {"forebay-worker": WORKER, "forebay-master": MASTER, "forebay-fuse": GATEWAY}.get(span.service, CLIENT)


def who_of(span: KeptSpan) -> str:
    """The part by name."""
    kind = kind_of(span)
    if kind == UFS:
        where = span.attributes.get("server.address")
        return f"the under store{f' at {where}' if where else ''}, asked by {span.member_id}"
    if kind == NETWORK:
        return f"the way from {_asker(span)} to {span.attributes.get('server.address', 'a peer')} and back"
    return {WORKER: f"worker {span.member_id}", MASTER: f"master {span.member_id}", GATEWAY: "the gateway"}.get(
        kind, "this command and what lies under it"
    )


def _asker(span: KeptSpan) -> str:
    return {"forebay-fuse": "the gateway", "forebay-cli": "here"}.get(span.service, span.member_id)


def label(node: Node) -> str:
    """A span in one line of the tree."""
    span, seen = node.span, node.span.attributes
    if span.name.startswith("S3."):
        said = span.name
    elif kind_of(span) == UFS:
        method = "S3 GET" if seen.get("http.request.method") == "GET" else span.name
        said = f"{method} {seen.get('server.address', '')}".rstrip()
    elif "url.path" in seen:
        said = f"{span.name} {seen.get('http.route') or seen['url.path']}"
    else:
        said = span.name
    status = seen.get("http.response.status_code")
    marks = [f"→ {status}"] if status else []
    marks += ["answered at once"] if seen.get("forebay.fuse.inline") else []
    marks += [f"failed: {span.error}"] if span.error else []
    marks += ["its caller's span is missing"] if node.is_orphan else []
    return " ".join([said, *(f"({mark})" if not mark.startswith("→") else mark for mark in marks)])


def place(span: KeptSpan) -> str:
    """Whose span it is."""
    return f"{span.service.removeprefix('forebay-')} {span.member_id}".strip() if span.service else span.member_id


def blames(root: Node) -> list[Blame]:
    """The shares by part, the largest first. A worker that waits for bytes which another request has asked the under
    store for waits for the under store."""
    nodes = [node for _, node in root.walk()]
    stores: dict[str, list[Node]] = {}
    for node in nodes:
        if kind_of(node.span) == UFS:
            stores.setdefault(node.span.member_id, []).append(node)
    seconds: dict[tuple[str, str], float] = {}
    for stretch in stretches(root):
        span = stretch.node.span
        waits_s, took_s = 0.0, stretch.end_s - stretch.begin_s
        asked = stores.get(span.member_id, [])
        if kind_of(span) == WORKER and asked:
            waits_s = within(stretch, asked)
            key = (UFS, who_of(asked[0].span))
            seconds[key] = seconds.get(key, 0.0) + waits_s
        key = (kind_of(span), who_of(span))
        seconds[key] = seconds.get(key, 0.0) + took_s - waits_s
    found = []
    for (kind, who), total_s in seconds.items():
        lengths = [n.end_s - n.begin_s for n in nodes if (kind_of(n.span), who_of(n.span)) == (kind, who)]
        found.append(Blame(kind, who, total_s, len(lengths), max(lengths, default=0.0)))
    return sorted(found, key=lambda blame: -blame.seconds)


MEANING = {
    UFS: "the bytes were not in the cache (a second read, or 'forebay load' beforehand, does not wait for this)",
    WORKER: "the worker had them or made them ready: look at its disk, its processor and its queue ('forebay workers')",
    MASTER: "the master was asked for the name; a second look is answered by the caches",
    GATEWAY: "the gateway itself: is its processor share enough ('forebay doctor')?",
    NETWORK: "bytes on their way, or waiting to be sent and taken",
    CLIENT: "the reading program, the kernel and this command's own work",
}


def said(root: Node, bytes_read: int, *, by_file: bool = False) -> list[str]:
    """The verdict, a sentence a line. ``by_file``: the kernel or the gateway read the bytes from a local file."""
    took_s = root.end_s - root.begin_s
    rate = f", {size(bytes_read / took_s)}/s" if took_s > 0 and bytes_read else ""
    lines = [f"{size(bytes_read)} in {milliseconds(took_s)}{rate}."]
    slow = [blame for blame in blames(root) if blame.seconds >= SLOW_SHARE * took_s]
    for blame in slow:
        calls = f": {blame.calls} calls, the longest {milliseconds(blame.longest_s)}" if blame.calls > 1 else ""
        lines.append(f"{milliseconds(blame.seconds)} ({share(blame.seconds, took_s)}) had {blame.who}{calls}.")
    lines += _verdict(slow, took_s)
    if by_file:
        lines.append("No worker was asked for bytes: they came from files and pages on this host.")
    failed = [node.span for _, node in root.walk() if node.span.error]
    lines += [f"{place(span)}: {span.name} failed ({span.error})." for span in failed[:5]]
    return lines


def _verdict(slow: Sequence[Blame], took_s: float) -> list[str]:
    if took_s < QUICK_S or not slow:
        return ["Nothing was slow."]
    return [f"Most of the time went to {slow[0].who}: {MEANING[slow[0].kind]}."]


def milliseconds(seconds: float) -> str:
    """``12.3 ms``, ``1.20 s``."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
