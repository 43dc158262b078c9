"""Measures at the cluster: reads a file through the SDK, and asks the services what they saw."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass

from forebay.cli.api import Api
from forebay.cli.doctor import judges
from forebay.cli.doctor.findings import Finding
from forebay.cli.reading import walk
from forebay.contracts import HoldsReply, HoldsRequest, Layout, StatusReply, TicketReply, TicketRequest, identity
from forebay.contracts.blocks import TICKET_HEADER
from forebay.contracts.loads import HOLDS_PATH
from forebay.contracts.members import owns_blocks
from forebay.errors import ForebayError, NotFound
from forebay.runtime import Deadline
from forebay.telemetry import Counter as Counted
from forebay.telemetry import Metrics

READS = 24
"""Reads of the probe's first block: with two-choice selection each of a few replicas is asked twice by then."""

COPIES_WAIT_S = 5.0
LOOKED_AT_MAX = 1000
_VERSION = re.compile(
    r'^http_server_request_duration_seconds_count\{([^}]*http_route="/v1/blocks/\{block_id\}"[^}]*)\} ([0-9.e+]+)$',
    re.MULTILINE,
)
_PROTOCOL = re.compile(r'network_protocol_version="([^"]+)"')


@dataclass(frozen=True)
class Probe:
    """The file that is read."""

    path: str
    layout: Layout

    @property
    def first_bytes(self) -> int:
        """Length of its first block."""
        return identity.block_length(self.layout.size, self.layout.block_size, 0)

    @property
    def block_id(self) -> str:
        """Its first block."""
        return identity.block_id(self.layout.version_id, self.layout.block_size, 0)


async def find(api: Api, path: str) -> Probe:
    """The file ``path``, or the first below it that is not empty. Raises NotFound."""
    found = await api.client.lookup(path)
    if found.entry.layout is not None:
        return Probe(path, found.entry.layout)
    seen = 0
    async for below, entry in walk(api, path):
        seen += 1
        if entry.layout is not None and entry.layout.size:
            return Probe(below, entry.layout)
        if seen >= LOOKED_AT_MAX:
            break
    raise NotFound("no file to read", path=path)


async def probe_cluster(api: Api, metrics: Metrics, path: str) -> list[Finding]:
    """All that needs no mount."""
    probe = await find(api, path)
    before = await versions(api)
    return [
        await metadata_cache(api, metrics, probe),
        await replicas(api, probe),
        judges.http_version(await versions(api) - before),
        await clocks(api),
        await registry(api),
    ]


async def metadata_cache(api: Api, metrics: Metrics, probe: Probe) -> Finding:
    """Two looks at a name."""
    api.client.forget(probe.path)
    start = misses(metrics)
    found = await api.client.lookup(probe.path)
    first = misses(metrics)
    await api.client.lookup(probe.path)
    return judges.client_metadata_cache(first - start, misses(metrics) - first, found.valid_s)


def misses(metrics: Metrics) -> float:
    """Lookups that asked a master, so far."""
    for instrument in metrics:
        if isinstance(instrument, Counted) and instrument.description.name == "forebay_client_lookups_total":
            return instrument.values().get(("miss",), 0.0)
    return 0.0


async def replicas(api: Api, probe: Probe) -> Finding:
    """Reads a block several times, and counts its copies by the workers' own files."""
    mount = await api.mount_of(probe.path)
    reader = await api.client.open(probe.path)
    try:
        buffer = memoryview(bytearray(min(reader.size, probe.layout.block_size, 1 << 20)))
        for _ in range(READS if mount.replicas > 1 else 2):
            await reader.read_into(0, buffer)
    finally:
        await reader.close()
    until_s = time.monotonic() + COPIES_WAIT_S
    while True:
        copies = await holders(api, probe)
        if len(copies) >= mount.replicas or time.monotonic() > until_s:
            break
        await asyncio.sleep(0.2)
    owners = sum(owns_blocks(m) and m.state == "live" for m in api.members("worker"))
    return judges.replicas(mount.replicas, owners, copies)


async def holders(api: Api, probe: Probe) -> list[str]:
    """The workers that hold the probe's first block complete."""
    asked = TicketRequest(path=probe.path, client_id=api.client.options.client_id)
    ticket = (await api.master("POST", "/v1/tickets", TicketReply, asked)).ticket
    request, found = HoldsRequest(block_ids=(probe.block_id,)), []
    for member in api.members("worker"):
        try:
            reply = await api.http.call(
                member.tcp,
                HOLDS_PATH,
                request,
                HoldsReply,
                deadline=Deadline.after(5),
                headers={TICKET_HEADER: ticket},
            )
        except ForebayError:
            continue  # a worker that is away holds nothing for anybody
        if reply.complete:
            found.append(member.member_id)
    return found


def by_version(page: str) -> Counter[str]:
    """Reads of blocks that a worker answered, by the version of HTTP. Pure."""
    found: Counter[str] = Counter()
    for labels, count in _VERSION.findall(page):
        match = _PROTOCOL.search(labels)
        found[match[1] if match else "?"] += int(float(count))
    return found


async def versions(api: Api) -> Counter[str]:
    """As `by_version`, of all workers."""
    whole: Counter[str] = Counter()
    for member in api.members("worker"):
        try:
            whole += by_version(await api.text(member.tcp, "/metrics"))
        except ForebayError:
            continue  # the other probes say that it is away
    return whole


async def clocks(api: Api) -> Finding:
    """Each service's time against ours."""
    skews: dict[str, float] = {}
    uncertain_s = 0.0
    for member in api.members():
        before_s = time.time()
        try:
            status = await api.call(member.tcp, "GET", "/v1/status", StatusReply, wait_s=5)
        except ForebayError:
            continue  # the other probes say that it is away
        after_s = time.time()
        if status.now_s:
            skews[member.member_id] = status.now_s - (before_s + after_s) / 2
            uncertain_s = max(uncertain_s, (after_s - before_s) / 2)
    return judges.clocks(skews, uncertain_s)


async def registry(api: Api) -> Finding:
    """A second connection to the registry: how long until the map is read."""
    from forebay.client import Client
    from forebay.telemetry import quiet

    address = api.where.registry
    if not address.startswith("zookeeper://"):
        return judges.zookeeper(address, None)
    client, begun_s = Client(api.where.options(), quiet()), time.monotonic()
    try:
        await client.start()
        return judges.zookeeper(address, time.monotonic() - begun_s)
    except ForebayError as e:
        return judges.zookeeper(address, None, e.message)
    finally:
        await client.close()
