"""Measures where blocks are asked for and where copies stay: ``location_policy``, ``passive_cache``, ``read_type``."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay.balancing.placement import ranking
from forebay.cli.api import Api
from forebay.cli.doctor import judges
from forebay.cli.doctor.cluster_probes import LOOKED_AT_MAX, Probe, holders
from forebay.cli.doctor.findings import Finding
from forebay.cli.doctor.judges import Entered
from forebay.cli.reading import walk
from forebay.client import Client
from forebay.client.wanted import FileVersion
from forebay.contracts import Member, SettingsReply, TicketReply, TicketRequest, identity
from forebay.contracts.blocks import SETTINGS_PATH, TICKET_HEADER, block_path
from forebay.contracts.members import owns_blocks
from forebay.errors import ForebayError
from forebay.runtime import Deadline
from forebay.telemetry import Histogram, Metrics, Telemetry, Tracer

FILES_MAX = 8
"""Files whose first block is read to see whom a policy asks, and which are looked at for one that nobody holds."""

READ_BYTES = 64 << 10
KEPT_WAIT_S = 5.0
"""How long a copy may take to be complete."""

LOOK_S = 0.2
BLOCK_BYTES_MAX = 256 << 20
"""Blocks above this are not read for a probe."""

SOCKET = "localhost"
"""How a request over a Unix socket names its peer."""


async def probe_blocks(api: Api, mount: Mapping[str, Any] | None, path: str) -> list[Finding]:
    """All three; ``mount`` are the settings of a gateway, whose policy is then the one that is judged."""
    probes = await several(api, path)
    found = [await location_policy(api, mount or {}, probes)]
    workers = api.members("worker")
    settings = await settings_of(api, workers)
    found.append(await read_type(api, settings, probes))
    found.append(await passive_cache(api, settings, probes))
    return found


async def several(api: Api, path: str) -> list[Probe]:
    """The first files that are not empty."""
    found = await api.client.lookup(path)
    if found.entry.layout is not None:
        return [Probe(path, found.entry.layout)]
    probes, seen = list[Probe](), 0
    async for below, entry in walk(api, path):
        seen += 1
        if entry.layout is not None and entry.layout.size:
            probes.append(Probe(below, entry.layout))
        if len(probes) >= FILES_MAX or seen >= LOOKED_AT_MAX:
            break
    return probes


async def settings_of(api: Api, workers: list[Member]) -> dict[str, Mapping[str, Any]]:
    """What can be changed on each worker that answers."""
    found: dict[str, Mapping[str, Any]] = {}
    for member in workers:
        try:
            reply = await api.call(member.tcp, "GET", SETTINGS_PATH, SettingsReply, wait_s=5)
        except ForebayError:
            continue  # the other probes say that it is away
        found[member.member_id] = reply.settings
    return found


# -- whom a client asks


async def location_policy(api: Api, mount: Mapping[str, Any], probes: list[Probe]) -> Finding:
    """A client with the mount's policy reads a little of several files; whom it asked is counted."""
    policy = str(mount.get("location_policy", "deterministic-hash"))
    metrics = Metrics()
    told: dict[str, Any] = {
        "location_policy": policy,
        "reserved_bytes": int(mount.get("reserved_bytes", 0)),
        # Of a worker on this host we want to see that it was asked, which no opened file would tell.
        "short_circuit": "uds" if policy.startswith("local") else "off",
        "short_circuit_dirs": tuple(Path(text) for text in _listed(mount.get("short_circuit_dirs"))),
        "hedge": False,
    }
    async with Client(api.where.options(**told), Telemetry("forebay-doctor", metrics, Tracer(None, 0.0))) as client:
        for probe in probes:
            reader = await client.open(probe.path)
            try:
                await reader.read_into(0, memoryview(bytearray(min(READ_BYTES, probe.layout.size))))
            finally:
                await reader.close()
    workers = [m for m in api.members("worker") if m.state in ("live", "draining")]
    homes = set()
    for probe in probes:
        replicas = (await api.mount_of(probe.path)).replicas
        homes |= {m.tcp for m in ranking(probe.block_id, [m for m in workers if owns_blocks(m)], replicas)}
    most = max(workers, key=lambda m: m.available_bytes, default=None)
    return judges.location_policy(
        Entered(
            policy=policy,
            asked=asked_of(metrics, {SOCKET, *(m.tcp for m in workers)}),
            homes=frozenset(homes),
            roomiest=most.tcp if most is not None else "",
            workers=len(workers),
            blocks=len(probes),
        )
    )


def _listed(value: object) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [str(part) for part in value] if isinstance(value, list | tuple) else []


def asked_of(metrics: Metrics, workers: Collection[str]) -> Counter[str]:
    """Reads by the worker they were sent to."""
    found: Counter[str] = Counter()
    for instrument in metrics:
        if isinstance(instrument, Histogram) and instrument.description.name == "http.client.request.duration":
            for (method, peer, status), series in instrument.distributions().items():
                if method == "GET" and peer in workers and status in {"200", "206"}:
                    found[peer] += series.count
    return found


# -- where copies stay


@dataclass(frozen=True)
class Asking:
    """How to ask one worker for a block past the SDK."""

    path: str
    headers: Mapping[str, str]
    length: int


async def asking(api: Api, probe: Probe) -> Asking:
    """The request for all of a probe's first block."""
    asked = TicketRequest(path=probe.path, client_id=api.client.options.client_id)
    ticket = await api.master("POST", "/v1/tickets", TicketReply, asked)
    file = FileVersion(ticket.mount.mount_id, probe.layout, probe.path)
    length = identity.block_length(probe.layout.size, probe.layout.block_size, 0)
    return Asking(block_path(file.block_id(0), file.target(0)), {TICKET_HEADER: ticket.ticket}, length)


async def read_from(api: Api, member: Member, how: Asking) -> None:
    """Reads a block from a worker, whoever is home. Its bytes are dropped."""
    buffer = memoryview(bytearray(how.length))
    await api.http.read_into(member.tcp, how.path, buffer, deadline=Deadline.after(60), headers=how.headers)


async def comes_to(api: Api, probe: Probe, wanted: str) -> list[str]:
    """The holders of a block, once ``wanted`` is among them or after `KEPT_WAIT_S`."""
    until_s = time.monotonic() + KEPT_WAIT_S
    while True:
        found = await holders(api, probe)
        if wanted in found or time.monotonic() > until_s:
            return found
        await asyncio.sleep(LOOK_S)


async def read_type(api: Api, settings: Mapping[str, Mapping[str, Any]], probes: list[Probe]) -> Finding:
    """A block is read from its home: with CACHE it is there afterwards, with NO_CACHE it is not."""
    chosen = await _of_home(api, settings, probes)
    if chosen is None:
        return Finding("read_type", "cannot tell", "no worker that answers is home of a small enough block")
    probe, home = chosen
    told = str(settings[home.member_id].get("read_type", "CACHE"))
    was_here = home.member_id in await holders(api, probe)
    before = await promotions(api, home)
    await read_from(api, home, await asking(api, probe))
    if told == "NO_CACHE":
        await asyncio.sleep(2 * LOOK_S)
        found = await holders(api, probe)
    else:
        found = await comes_to(api, probe, home.member_id)
    promoted = await promotions(api, home) - before
    return judges.read_type(told, home.member_id, was_here=was_here, is_here=home.member_id in found, promoted=promoted)


async def _of_home(
    api: Api, settings: Mapping[str, Mapping[str, Any]], probes: list[Probe]
) -> tuple[Probe, Member] | None:
    """A block and its home, one that nobody holds if there is any."""
    owners = [m for m in api.members("worker") if owns_blocks(m) and m.state == "live"]
    found: tuple[Probe, Member] | None = None
    for probe in probes:
        ranked = ranking(probe.block_id, owners, 1)
        if not ranked or ranked[0].member_id not in settings or probe.first_bytes > BLOCK_BYTES_MAX:
            continue
        found = (probe, ranked[0])
        if not await holders(api, probe):
            return found
    return found


async def passive_cache(api: Api, settings: Mapping[str, Mapping[str, Any]], probes: list[Probe]) -> Finding:
    """A block is read from a worker that is not to hold it: a copy stays there with the switch, none without."""
    workers = [m for m in api.members("worker") if m.state == "live"]
    for probe in probes:
        if probe.first_bytes > BLOCK_BYTES_MAX:
            continue
        replicas = (await api.mount_of(probe.path)).replicas
        owners = {m.member_id for m in ranking(probe.block_id, [m for m in workers if owns_blocks(m)], replicas)}
        held = await holders(api, probe)
        others = [m for m in workers if m.member_id in settings and m.member_id not in {*owners, *held}]
        if not others:
            continue
        asked = others[0]
        is_on = bool(settings[asked.member_id].get("passive_cache"))
        await read_from(api, asked, await asking(api, probe))
        if is_on:
            found = await comes_to(api, probe, asked.member_id)
        else:
            await asyncio.sleep(2 * LOOK_S)
            found = await holders(api, probe)
        return judges.passive_cache(is_on, asked.member_id, is_here=asked.member_id in found)
    return Finding("passive_cache", "cannot tell", "every worker that could be asked owns or holds the probe blocks")


async def promotions(api: Api, member: Member) -> float:
    """Blocks that a worker has moved from a disk to memory so far."""
    for line in (await api.text(member.tcp, "/metrics")).splitlines():
        name, _, value = line.partition(" ")
        if name == "forebay_worker_promotions_total":
            return float(value)
    return 0.0
