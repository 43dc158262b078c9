"""Reads a file as a kept trace, and gathers what every process kept of it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import orjson

from forebay.cli.api import Api
from forebay.cli.doctor.mount_probes import OWN, MountEye
from forebay.contracts import decode_stored, encode
from forebay.contracts.traces import TRACES_PATH, KeptSpan, TraceReply
from forebay.errors import ConfigError, ForebayError
from forebay.telemetry import TraceContext, Tracer

PIECE_BYTES = 8 << 20
SETTLE_S = 2.0
"""How long what was begun behind the read may take to end before the spans are gathered for good."""

LOOK_S = 0.2
ANSWER_S = 5.0
TRACE_XATTR = "user.forebay.trace."


@dataclass(frozen=True)
class Read:
    """What was read, and the span around it."""

    path: str
    bytes_read: int
    root: TraceContext


def mount_above(path: Path) -> Path | None:
    """The mount of ours that holds ``path``; ``None``: there is none."""
    for folder in path.absolute().parents:
        if (folder / OWN / "config").is_file():
            return folder
    return None


async def read_by_sdk(api: Api, tracer: Tracer, path: str) -> Read:
    """All bytes of a file of the namespace, by the SDK. Its name is asked for anew."""
    api.client.forget(path)
    with tracer.start("read", kind="internal", root=True, keep=True) as root:
        reader = await api.client.open(path)
        try:
            view, count = memoryview(bytearray(min(PIECE_BYTES, max(1, reader.size)))), 0
            while n := await reader.read_into(count, view):
                count += n
        finally:
            await reader.close()
        root.set("forebay.bytes", count)
    return Read(path, count, root.context)


def read_at_mount(tracer: Tracer, path: Path) -> Read:
    """All bytes of a file of a mount, its pages dropped first.

    Raises:
        ConfigError: it cannot be read, or the gateway takes no flag (its ``xattrs`` are off).
    """
    try:
        with tracer.start("read", kind="internal", root=True, keep=True) as root:
            flag = TRACE_XATTR + root.context.traceparent()
            for flagged in (path.parent, path):
                os.getxattr(flagged, flag)
            fd = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                count = 0
                while piece := os.pread(fd, PIECE_BYTES, count):
                    count += len(piece)
            finally:
                os.close(fd)
            root.set("forebay.bytes", count)
    except OSError as e:
        raise ConfigError("PATH", f"{path} could not be read with tracing: {e.strerror} (are xattrs off?)") from e
    return Read(str(path), count, root.context)


def kept_by_gateway(mountpoint: Path, trace_id: str) -> tuple[KeptSpan, ...]:
    """What the gateway kept, by ``.forebay/traces``."""
    try:
        reply = decode_stored(TraceReply, (mountpoint / OWN / "traces").read_bytes())
    except OSError as e:
        raise ConfigError("PATH", f"{mountpoint / OWN / 'traces'} cannot be read: {e.strerror}") from e
    return tuple(span for span in reply.spans if span.trace_id == trace_id)


async def kept_by_members(api: Api, trace_id: str) -> tuple[list[KeptSpan], list[str]]:
    """What masters and workers kept, and the members that did not answer."""

    async def ask(address: str) -> tuple[KeptSpan, ...] | None:
        try:
            return (await api.call(address, "GET", TRACES_PATH + trace_id, TraceReply, wait_s=ANSWER_S)).spans
        except ForebayError:
            return None

    members = {m.tcp: m.member_id for m in api.members()}
    addresses = list(dict.fromkeys([*members, *api.masters()]))
    answers = await asyncio.gather(*(ask(address) for address in addresses))
    silent = [members.get(a, a) for a, answer in zip(addresses, answers, strict=True) if answer is None]
    return [span for answer in answers for span in answer or ()], silent


async def gather(api: Api, trace_id: str) -> tuple[list[KeptSpan], list[str]]:
    """As `kept_by_members`, once two looks agree or `SETTLE_S` have passed: spans that ended after the read count."""
    loop = asyncio.get_running_loop()
    until_s, seen = loop.time() + SETTLE_S, -1
    while True:
        spans, silent = await kept_by_members(api, trace_id)
        unique = {span.span_id: span for span in spans}
        if len(unique) == seen or loop.time() > until_s:
            return list(unique.values()), silent
        seen = len(unique)
        await asyncio.sleep(LOOK_S)


def settings_of(mountpoint: Path) -> dict[str, object]:
    """The settings of a mount's gateway."""
    return MountEye.open(mountpoint).settings


def as_plain(span: KeptSpan) -> dict[str, object]:
    """A span as JSON shows it."""
    found: dict[str, object] = orjson.loads(encode(span))
    return found
