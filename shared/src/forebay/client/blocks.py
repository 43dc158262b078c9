"""Reading a range of a block from the workers: plan, ask, fall back, within one deadline."""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from forebay.balancing import LoadTable, Placement, choose
from forebay.client.options import ClientOptions
from forebay.client.plan import STEPS_MAX, Step, Suspects, blames_member, goes_on, round_pause_s, steps
from forebay.client.tickets import TicketCache
from forebay.contracts import BlockTarget, ClusterMap, Layout, Member, identity
from forebay.contracts.blocks import (
    HOP_HEADER,
    READ_TYPE_HEADER,
    SERVING_WEIGHT_HEADER,
    SOURCE_HEADER,
    TICKET_HEADER,
    block_path,
    format_range,
)
from forebay.errors import (
    DeadlineExceeded,
    ForebayError,
    PeerMisbehaved,
    PeerUnavailable,
    PermissionDenied,
    Unauthenticated,
)
from forebay.runtime import Deadline
from forebay.telemetry import Metrics
from forebay.transport import DataReply, HttpClient

RANKINGS_MAX = 4096
"""Rankings remembered; each costs a hash per worker."""

SOURCES = frozenset({"mem", "ssd", "peer", "ufs"})


@dataclass(frozen=True)
class FileVersion:
    """One version of one file, as a reader holds it."""

    mount_id: str
    layout: Layout
    path: str

    def block_id(self, index: int) -> str:
        """The id of block ``index``."""
        return identity.block_id(self.layout.version_id, self.layout.block_size, index)

    def block_length(self, index: int) -> int:
        """Bytes in block ``index``."""
        return identity.block_length(self.layout.size, self.layout.block_size, index)

    def target(self, index: int) -> BlockTarget:
        """What the data route is asked for."""
        layout = self.layout
        return BlockTarget(
            mount_id=self.mount_id,
            key=layout.key,
            size=layout.size,
            fingerprint=layout.fingerprint,
            index=index,
        )


class Members:
    """The cluster map as reads need it: placement, with the rankings of recent blocks remembered."""

    def __init__(self) -> None:
        self.map: ClusterMap | None = None
        self._placement = Placement.over(())
        self._rankings: OrderedDict[str, list[Member]] = OrderedDict()

    def update(self, cluster_map: ClusterMap) -> None:
        """A new map; rankings are computed anew (a member's state may have changed within an epoch)."""
        self.map = cluster_map
        self._placement = Placement(cluster_map)
        self._rankings.clear()

    def ranked(self, block_id: str) -> list[Member]:
        """Owners of the block, home first: enough for replicas and fallback."""
        ranked = self._rankings.get(block_id)
        if ranked is None:
            ranked = self._placement.ranked(block_id, 16 + STEPS_MAX)
            self._rankings[block_id] = ranked
            if len(self._rankings) > RANKINGS_MAX:
                self._rankings.popitem(last=False)
        return ranked


class BlockSource:
    """Fetches ranges of blocks into buffers of the caller."""

    def __init__(
        self,
        http: HttpClient,
        *,
        options: ClientOptions,
        members: Members,
        tickets: TicketCache,
        local_members: Callable[[], frozenset[str]],
        metrics: Metrics,
    ) -> None:
        self._http = http
        self._options = options
        self._members = members
        self._tickets = tickets
        self._local_members = local_members
        self._rng = random.Random()
        self.loads = LoadTable()
        self.suspects = Suspects()
        self.bytes_read = metrics.counter(
            "forebay_client_read_bytes_total", "bytes read, by where they came from", ("source",)
        )
        self._failed = metrics.counter(
            "forebay_client_steps_failed_total", "members that failed a read, by error", ("code",)
        )

    def home_of(self, block_id: str) -> str | None:
        """The member id of the block's home."""
        ranked = self._members.ranked(block_id)
        return ranked[0].member_id if ranked else None

    async def fetch(self, file: FileVersion, index: int, offset: int, buffer: memoryview, deadline: Deadline) -> None:
        """Fill ``buffer`` with the block's bytes from ``offset``.

        Rounds over the plan go on until the deadline: a worker that restarts is found again.

        Raises:
            ForebayError: an answer that no other member would better (``StaleVersion``, ``NotFound``, …), or what the
                last member failed with when time is up.
        """
        error: ForebayError = PeerUnavailable("no worker is in the cluster map")
        for round_index in range(1, 1000):
            for step in self._plan(file, index, deadline):
                if deadline.expired:
                    break
                try:
                    return await self._ask(step, file, index, offset, buffer, deadline)
                except ForebayError as e:
                    if not goes_on(e):
                        raise
                    error = e
                    self._failed.add(1, e.code)
            pause = round_pause_s(round_index)
            if deadline.remaining_s() <= pause:
                break
            await asyncio.sleep(pause)
        if isinstance(error, DeadlineExceeded):
            raise error
        raise DeadlineExceeded(f"no worker gave the block in time; the last one said: {error.message}", code=error.code)

    def _plan(self, file: FileVersion, index: int, deadline: Deadline) -> list[Step]:
        options, now = self._options, time.monotonic()
        local = self._local_members() if options.location_policy == "local-first" else frozenset()
        return steps(
            self._members.ranked(file.block_id(index)),
            replicas=self._tickets.replicas(file.mount_id),
            suspects=self.suspects.now(now),
            remaining_s=deadline.remaining_s(),
            step_s=options.step_deadline_s,
            pick=lambda holders: choose(holders, self.loads.loads(holders, now), self._rng),
            local=local,
        )

    async def _ask(
        self, step: Step, file: FileVersion, index: int, offset: int, buffer: memoryview, deadline: Deadline
    ) -> None:
        """One member, with one more try under a fresh ticket if it refuses ours."""
        bound = deadline.sooner(step.timeout_s)
        for fresh in (False, True):
            async with bound.timeout():
                ticket = (await self._tickets.get(file.mount_id, file.path)).ticket
            headers = self._headers(step, ticket, offset, len(buffer))
            try:
                reply = await self._timed(step.member, file, index, buffer, bound, headers)
            except (Unauthenticated, PermissionDenied):
                if fresh or not self._tickets.drop(file.mount_id, ticket):
                    raise
                continue
            self._check(reply, len(buffer))
            return

    def _headers(self, step: Step, ticket: str, offset: int, length: int) -> dict[str, str]:
        headers = {TICKET_HEADER: ticket, "range": format_range(offset, offset + length)}
        if step.hop:
            headers[HOP_HEADER] = "1"
        if self._options.read_type != "CACHE":
            headers[READ_TYPE_HEADER] = self._options.read_type
        return headers

    async def _timed(
        self,
        member: Member,
        file: FileVersion,
        index: int,
        buffer: memoryview,
        deadline: Deadline,
        headers: dict[str, str],
    ) -> DataReply:
        """The request, with what it says about the member recorded."""
        member_id, started = member.member_id, time.monotonic()
        path = block_path(file.block_id(index), file.target(index))
        self.loads.start(member_id, started)
        try:
            reply = await self._http.read_into(member.tcp, path, buffer, deadline=deadline, headers=headers)
        except ForebayError as e:
            now, bad = time.monotonic(), blames_member(e)
            self.loads.finish(member_id, now, latency_s=now - started, ok=not bad)
            if bad:
                self.suspects.failed(member_id, now)
            raise
        except BaseException:
            self.loads.cancelled(member_id)
            raise
        now = time.monotonic()
        self.loads.finish(member_id, now, latency_s=now - started)
        self.suspects.answered(member_id)
        self._heard(member_id, reply, now)
        return reply

    def _heard(self, member_id: str, reply: DataReply, now_s: float) -> None:
        weight = reply.headers.get(SERVING_WEIGHT_HEADER)
        if weight is not None:
            try:
                self.loads.heard_weight(member_id, float(weight), now_s)
            except ValueError as e:
                raise PeerMisbehaved("the worker's serving weight is no number") from e

    def _check(self, reply: DataReply, length: int) -> None:
        if reply.length != length:
            raise PeerMisbehaved("the worker sent another length than asked for", asked=length, got=reply.length)
        source = reply.headers.get(SOURCE_HEADER, "")
        self.bytes_read.add(length, source if source in SOURCES else "unknown")
