"""Reading a range of a block from the workers: plan, ask, hedge, fall back, within one deadline."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection
from functools import partial

from forebay.balancing import LoadTable, Paces, Surroundings, choose, entry_worker
from forebay.client.hedges import Delays
from forebay.client.members import Members
from forebay.client.options import ClientOptions
from forebay.client.plan import Holders, Step, Suspects, blames_member, goes_on, hedge_member, round_pause_s, steps
from forebay.client.race import Race
from forebay.client.retries import RetryBudget
from forebay.client.sockets import LocalSockets
from forebay.client.tasks import Tasks
from forebay.client.tickets import TicketCache
from forebay.client.wanted import FileVersion, Request, Sent, Wanted
from forebay.contracts import Member
from forebay.contracts.blocks import (
    COPY_HEADER,
    HOP_HEADER,
    OFFERED_HEADER,
    ONLY_IF_CACHED,
    READ_TYPE_HEADER,
    SERVING_WEIGHT_HEADER,
    SOURCE_HEADER,
    TICKET_HEADER,
    format_range,
)
from forebay.errors import (
    DeadlineExceeded,
    ForebayError,
    NotCached,
    PeerMisbehaved,
    PeerUnavailable,
    PermissionDenied,
    Unauthenticated,
)
from forebay.runtime import Deadline, logs
from forebay.telemetry import Metrics, waits
from forebay.transport import DataReply, HttpClient

SOURCES = frozenset({"mem", "ssd", "peer", "ufs"})
TIERS = frozenset({"mem", "ssd"})

HEDGES_MAX = 8
"""Second requests under way at once: each holds a buffer of its own."""

ALIVE_AFTER_S = 1.0
"""A worker that has not answered for so long is asked whether it is alive, and again after each such time."""

LOOK_S = 0.25
"""How often a request that is late looks whether its member was found slow meanwhile."""


class BlockSource:
    """Fetches ranges of blocks into buffers of the caller."""

    def __init__(
        self,
        http: HttpClient,
        *,
        options: ClientOptions,
        members: Members,
        tickets: TicketCache,
        tasks: Tasks,
        sockets: LocalSockets,
        local_members: Callable[[], frozenset[str]],
        metrics: Metrics,
    ) -> None:
        self._http = http
        self._options = options
        self._members = members
        self._tickets = tickets
        self._tasks = tasks
        self._sockets = sockets
        self._local_members = local_members
        self._log = logs.get("forebay.client.blocks")
        self._rng = random.Random()
        self.loads = LoadTable()
        self.suspects = Suspects()
        self.paces = Paces()
        self._delays = Delays()
        self._budget = RetryBudget(time.monotonic())
        self._hedges = 0
        self._measure(metrics)

    def _measure(self, metrics: Metrics) -> None:
        self.bytes_read = metrics.counter(
            "forebay_client_read_bytes_total", "bytes read, by where they came from", ("source",)
        )
        self._failed = metrics.counter(
            "forebay_client_steps_failed_total", "members that failed a read, by error", ("code",)
        )
        self._hedged = metrics.counter(
            "forebay_client_hedges_total", "second requests, by whether they were first", ("won",)
        )
        self._waited = metrics.counter(
            "forebay_client_retries_delayed_total", "second tries that waited for the retry budget"
        )
        self._by_socket = metrics.counter(
            "forebay_client_socket_reads_total", "answers of workers on this host over their Unix socket"
        )
        metrics.observed(
            "forebay_client_members_avoided",
            "members that are asked last: they failed, or are slow",
            lambda: len(self._shunned(time.monotonic())),
        )

    def home_of(self, block_id: str) -> str | None:
        """The member id of the block's home."""
        ranked = self._members.block(block_id).ranked
        return ranked[0].member_id if ranked else None

    def retain(self, member_ids: Collection[str]) -> None:
        """Forgets members that left the map."""
        self.loads.retain(member_ids)
        self.suspects.forget_others(member_ids)
        self.paces.retain(member_ids)

    async def fetch(self, file: FileVersion, index: int, offset: int, buffer: memoryview, deadline: Deadline) -> None:
        """Fill ``buffer`` with the block's bytes from ``offset``.

        Rounds over the plan go on until the deadline: a worker that restarts is found again.

        Raises:
            ForebayError: an answer that no other member would better (``StaleVersion``, ``NotFound``, …), or what the
                last member failed with when time is up.
        """
        wanted = Wanted.of(file, index, offset, len(buffer))
        error: ForebayError = PeerUnavailable("no worker is in the cluster map")
        self._budget.earn()
        has_tried = False
        for round_index in range(1, 1000):
            for step in self._plan(wanted, deadline):
                if deadline.expired or (has_tried and not await self._may_retry(deadline)):
                    break
                has_tried = has_tried or not step.probe  # a probe in vain is no failure
                try:
                    return await self._ask(step, wanted, buffer, deadline)
                except ForebayError as e:
                    if not goes_on(e) and not step.probe:
                        raise
                    self._noted(step, wanted, e)
                    error = e if not step.probe else error
            pause = round_pause_s(round_index)
            if deadline.remaining_s() <= pause:
                break
            with waits.timed("queueing", wanted.file.path):
                await asyncio.sleep(pause)
        if isinstance(error, DeadlineExceeded):
            raise error
        raise DeadlineExceeded(f"no worker gave the block in time; the last one said: {error.message}", code=error.code)

    async def _may_retry(self, deadline: Deadline) -> bool:
        """Waits for the retry budget; whether there is still time."""
        while not deadline.expired:
            if self._budget.take(now := time.monotonic()):
                return True
            self._waited.add(1)
            with waits.timed("queueing"):
                await asyncio.sleep(min(self._budget.wait_s(now), deadline.remaining_s()))
        return False

    def _noted(self, step: Step, wanted: Wanted, error: ForebayError) -> None:
        if isinstance(error, NotCached):
            self._members.block(wanted.block_id).lacking.add(step.member.member_id)
        else:
            self._failed.add(1, error.code)

    def _shunned(self, now_s: float) -> Collection[str]:
        """Members that are asked last now."""
        failing, slow = self.suspects.now(now_s), self.paces.slow(now_s)
        return {*failing, *slow} if failing and slow else failing or slow

    def _asked_last(self, wanted: Wanted, now_s: float) -> Collection[str]:
        """Those, but for a slow one that fills this very block: another would ask the under store a second time."""
        shunned = self._shunned(now_s)
        filler = self._members.block(wanted.block_id).filler(now_s) if shunned else None
        if filler not in shunned or filler in self.suspects.now(now_s):
            return shunned
        return {member_id for member_id in shunned if member_id != filler}

    def _holders(self, wanted: Wanted) -> Holders:
        options, known = self._options, self._members.block(wanted.block_id)
        entry = None
        if options.location_policy != "deterministic-hash":
            around = Surroundings(self._local_members(), known.turn, options.reserved_bytes)
            entry = entry_worker(options.location_policy, known.ranked, self._members.workers, around)
        replicas = self._tickets.replicas(wanted.file.mount_id)
        return Holders(known.ranked, replicas, entry, known.offered, known.lacking)

    def _plan(self, wanted: Wanted, deadline: Deadline) -> list[Step]:
        now = time.monotonic()
        return steps(
            self._holders(wanted),
            suspects=self._asked_last(wanted, now),
            remaining_s=deadline.remaining_s(),
            step_s=self._options.step_deadline_s,
            pick=lambda owners: choose(owners, self.loads.loads(owners, now), self._rng),
        )

    async def _ask(self, step: Step, wanted: Wanted, buffer: memoryview, deadline: Deadline) -> None:
        """One member, with one more try under a fresh ticket if it refuses ours."""
        bound = deadline.sooner(step.timeout_s)
        for fresh in (False, True):
            async with bound.timeout():
                ticket = (await self._tickets.get(wanted.file.mount_id, wanted.file.path)).ticket
            try:
                reply = await self._watched(Request(step, wanted, ticket, buffer, bound))
            except (Unauthenticated, PermissionDenied):
                if fresh or not self._tickets.drop(wanted.file.mount_id, ticket):
                    raise
                continue
            self._taken(reply, wanted)
            return

    # -- one request, and what helps it along when it is late

    async def _watched(self, request: Request) -> DataReply:
        """The request; when it is late a hedge, and a look how its member gets on, run beside it."""
        delay_s = self._delays.delay_s(request.wanted.length) if self._options.hedge else None
        is_last_resort = self.paces.is_avoided(request.member_id, time.monotonic())
        race: Race[DataReply] = Race(
            self._tasks,
            LOOK_S if delay_s is None else min(delay_s, LOOK_S),
            lambda: self._help(race, request, delay_s, is_last_resort=is_last_resort),
        )
        return await race.run(self._timed(request, race))

    async def _help(
        self, race: Race[DataReply], request: Request, delay_s: float | None, *, is_last_resort: bool
    ) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look(race, request, is_last_resort=is_last_resort))
            if delay_s is not None:
                await asyncio.sleep(race.started_s + delay_s - time.monotonic())
                await self._hedge(race, request)

    async def _look(self, race: Race[DataReply], request: Request, *, is_last_resort: bool) -> None:
        """Ends the wait for a member that was found slow meanwhile, or that does not answer anything any more."""
        member_id, asked_s = request.member_id, race.started_s
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            self.paces.look(member_id, now)
            if not is_last_resort and self._is_past_waiting(request, now):
                return race.lose(DeadlineExceeded(f"{member_id} is slow", member=member_id))
            if now - asked_s >= ALIVE_AFTER_S:
                if not await self._is_alive(request.step.member):
                    return race.lose(PeerUnavailable(f"{member_id} does not answer any more", member=member_id))
                asked_s = time.monotonic()

    def _is_past_waiting(self, request: Request, now_s: float) -> bool:
        """Whether another should be asked: the member was found slow. If it fills the block, another would fill it as
        well."""
        if not self.paces.is_avoided(request.member_id, now_s):
            return False
        return self._members.block(request.wanted.block_id).filler(now_s) != request.member_id

    async def _hedge(self, race: Race[DataReply], first: Request) -> None:
        """Asks another member that may hold the block. Into a buffer of its own: two must not write into one."""
        now, wanted = time.monotonic(), first.wanted
        member = hedge_member(self._holders(wanted), first.step, suspects=self._shunned(now))
        if member is None or self._hedges >= HEDGES_MAX or not self._budget.take(now):
            return
        own = memoryview(bytearray(wanted.length))
        other = Step(member, hop=True, timeout_s=first.step.timeout_s, probe=True)
        self._hedges += 1
        won = False
        try:
            reply = await self._timed(Request(other, wanted, first.ticket, own, first.deadline))
            self._check(reply, wanted)

            def take() -> DataReply:
                first.buffer[:] = own
                return reply

            race.win(take)
            won = True
        except ForebayError as e:
            self._noted(other, wanted, e)
        finally:
            self._hedges -= 1
            self._hedged.add(1, "yes" if won else "no")

    async def _is_alive(self, member: Member) -> bool:
        """Whether the member answers anything at all; a paused or cut-off one does not."""
        try:
            await self._http.fetch(member.tcp, "GET", "/healthz", deadline=Deadline.after(ALIVE_AFTER_S))
        except ForebayError:
            return False
        return True

    def _headers(self, request: Request) -> dict[str, str]:
        step, wanted = request.step, request.wanted
        headers = {TICKET_HEADER: request.ticket, "range": format_range(wanted.offset, wanted.offset + wanted.length)}
        if step.hop:
            headers[HOP_HEADER] = "1"
        if step.probe:
            headers["cache-control"] = ONLY_IF_CACHED
        if self._options.read_type != "CACHE":
            headers[READ_TYPE_HEADER] = self._options.read_type
        if self._options.location_policy == "local-first-avoid-eviction" and not step.hop:
            headers[COPY_HEADER] = "spare"
        return headers

    async def _timed(self, request: Request, race: Race[DataReply] | None = None) -> DataReply:
        """The request, with what it says about the member recorded."""
        member_id, started = request.member_id, time.monotonic()
        self.loads.start(member_id, started)
        if not request.step.probe:
            self._members.block(request.wanted.block_id).asked(member_id, started)
        self.paces.asked(member_id, started)
        self.suspects.asked(member_id, started)
        try:
            reply = await self._read_into(request)
            self._settled(request, reply.length)
        except ForebayError as e:
            self._settled(request, 0)
            now, bad = time.monotonic(), blames_member(e)
            self.loads.finish(member_id, now, latency_s=now - started, ok=not bad)
            self.paces.unanswered(member_id)
            if bad:
                self.suspects.failed(member_id, now)
            else:
                self.suspects.answered(member_id)
            raise
        except BaseException:
            self._settled(request, 0)
            self._left(request, started, race)
            raise
        now = time.monotonic()
        self.loads.finish(member_id, now, latency_s=now - started)
        self.suspects.answered(member_id)
        self._delays.answered(request.wanted.length, now - started)
        self._heard(request, reply, now)
        return reply

    async def _read_into(self, request: Request) -> DataReply:
        began_s, kind, wanted = time.monotonic(), "remote", request.wanted
        try:
            reply = await self._asked(request)
            kind = "ufs" if reply.headers.get(SOURCE_HEADER) == "ufs" else "remote"
            return reply
        finally:
            waits.note(kind, began_s, path=wanted.file.path, block=wanted.block_id, member=request.member_id)

    async def _asked(self, request: Request) -> DataReply:
        """Over the member's socket if it is on this host, else, or if that is gone, over the network."""
        member = request.step.member
        socket = self._sockets.address(member)
        if socket is not None:
            try:
                reply = await self._asked_at(socket, request)
            except PeerUnavailable as e:
                self._sockets.lost(member)
                self._log.info("a worker's socket is not used", member=member.member_id, error=e.message)
            else:
                self._by_socket.add(1)
                return reply
        return await self._asked_at(member.tcp, request)

    async def _asked_at(self, address: str, request: Request) -> DataReply:
        return await self._http.read_into(
            address,
            request.wanted.path,
            request.buffer,
            deadline=request.deadline,
            headers=self._headers(request),
            on_sent=partial(self._sent, request),
        )

    def _sent(self, request: Request, under_way: int, landed: Callable[[], int]) -> None:
        self._settled(request, 0)  # over the socket, in vain
        is_held = self._members.block(request.wanted.block_id).is_held_by(request.member_id)
        request.sent = Sent.now(landed, is_held=is_held)
        self.paces.owes(request.member_id, request.sent.owed, request.sent.at_s)

    def _settled(self, request: Request, length: int) -> None:
        if request.sent is not None:
            self.paces.settled(request.member_id, request.sent.owed, length, time.monotonic())

    def _left(self, request: Request, started_s: float, race: Race[DataReply] | None) -> None:
        """The request was given up: by the caller, which says nothing, or because another member was faster, or this
        one slow, or dead."""
        member_id, now = request.member_id, time.monotonic()
        if race is None or not race.is_over:
            self.loads.cancelled(member_id)
            self.paces.unanswered(member_id)
            self.suspects.given_up(member_id)
            return
        self.loads.finish(member_id, now, latency_s=now - started_s, ok=race.error is None)
        sent, wanted = request.sent, request.wanted
        if sent is not None and self._members.block(wanted.block_id).is_held_by(member_id):
            self.paces.late(member_id, wanted.length, now - sent.at_s, now, sent.owed.meanwhile)
        else:
            self.paces.unanswered(member_id)  # it may have been filling: that says nothing of its tiers
        if isinstance(race.error, PeerUnavailable):
            self.suspects.failed(member_id, now)
        else:
            self.suspects.given_up(member_id)

    def _heard(self, request: Request, reply: DataReply, now_s: float) -> None:
        member_id, headers, sent = request.member_id, reply.headers, request.sent
        weight = headers.get(SERVING_WEIGHT_HEADER)
        if weight is not None:
            try:
                self.loads.heard_weight(member_id, float(weight), now_s)
            except ValueError as e:
                raise PeerMisbehaved("the worker's serving weight is no number") from e
        from_tier = headers.get(SOURCE_HEADER) in TIERS
        self._members.block(request.wanted.block_id).came(member_id, now_s, from_tier=from_tier)
        if from_tier and sent is not None:
            self.paces.answered(member_id, reply.length, now_s - sent.at_s, now_s, sent.owed.meanwhile)
        else:
            self.paces.unanswered(member_id)
            if sent is not None and sent.owed.is_held:
                self.paces.fetched(member_id, now_s)

    def _check(self, reply: DataReply, wanted: Wanted) -> None:
        if reply.length != wanted.length:
            raise PeerMisbehaved("the worker sent another length than asked for", got=reply.length)
        given = reply.headers.get("content-range")
        if given is not None and not given.startswith(f"bytes {wanted.offset}-{wanted.offset + wanted.length - 1}/"):
            raise PeerMisbehaved("the worker sent another part than asked for", header="content-range")

    def _taken(self, reply: DataReply, wanted: Wanted) -> None:
        self._check(reply, wanted)
        source = reply.headers.get(SOURCE_HEADER, "")
        self.bytes_read.add(wanted.length, source if source in SOURCES else "unknown")
        offered = reply.headers.get(OFFERED_HEADER)
        if offered is not None:
            self._members.block(wanted.block_id).offered = self._members.member(offered)
