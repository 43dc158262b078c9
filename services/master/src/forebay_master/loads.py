"""Loads: durable jobs that fill the cache with what lies below a path, and are done when the workers say so.

A load walks its path three times or more: to plan (what each worker is to hold, what it holds, what will not fit), to
fill, and to audit by what the workers' files really are. It keeps no manifest: each walk is the namespace as it is
then, so memory is bounded by a batch, a master that was killed goes on by asking the workers anew, and a file that
changed meanwhile is missing until it is filled. What an audit misses is filled again while that brings anything, or
while a worker that is away may come back (or lose its share to others).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from forebay.contracts import ClusterMap, Member
from forebay.contracts.loads import MISSING_MAX, LoadPlan, LoadRequest, LoadStatus, MissingBlock
from forebay.errors import Conflict, ForebayError, NotFound, NotLeader, NotReady, Overloaded
from forebay.runtime import Deadline, Supervisor, logs
from forebay.runtime.supervisor import first_error
from forebay_master.catalog import Catalog
from forebay_master.load_plan import Need, Room, refusal, room_of, share
from forebay_master.load_state import Course, Event, Next, after
from forebay_master.load_store import JobStore
from forebay_master.load_walk import Walk
from forebay_master.loading import AWAY, Piece, WorkerCalls, fill
from forebay_master.mounts import Mounts
from forebay_master.namespace import normalise

LOADS_MAX = 1000
"""Loads that are remembered; those that are over and oldest are forgotten."""

RUNNING_MAX = 4
"""Loads that run at once; further ones are queued."""

WAITERS_MAX = 1000
SHOW_PERIOD_S = 0.2
"""How often progress is told."""

ROUND_PAUSE_S = 2.0
STORE_PAUSE_S = 0.5
"""Before a state that could not be stored is stored again (ZooKeeper may be away)."""

LOG = logs.get(__name__)


@dataclass
class _Job:
    """A load, and what runs it. ``is_left``: nothing does any more, for another master seemed to lead."""

    status: LoadStatus
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    is_left: bool = False
    told_at_s: float = 0.0
    course: Course = field(default_factory=Course)


@dataclass
class _Audit:
    """What one walk found missing."""

    missing: int = 0
    unreachable: int = 0
    named: list[MissingBlock] = field(default_factory=list)
    why: Counter[str] = field(default_factory=Counter)

    def lacks(self, piece: Piece, member_id: str, reason: str, *, away: bool) -> None:
        """One block."""
        self.missing += 1
        self.unreachable += away
        self.why[reason] += 1
        if len(self.named) < MISSING_MAX:
            self.named.append(
                MissingBlock(path=piece.path, index=piece.target.index, member_id=member_id, reason=reason)
            )

    def message(self) -> str:
        """In words."""
        why = "; ".join(f"{count} because: {reason}" for reason, count in self.why.most_common(3))
        return f"{self.missing} blocks are missing: {why}"


class Loads:
    """All loads of one master. ``cluster_map`` reads the map of now."""

    def __init__(
        self,
        store: JobStore,
        catalog: Catalog,
        mounts: Mounts,
        calls: WorkerCalls,
        spawner: Supervisor,
        *,
        cluster_map: Callable[[], ClusterMap | None],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._walk = Walk(catalog, mounts, cluster_map)
        self._calls = calls
        self._spawner = spawner
        self._jobs: dict[str, _Job] = {}
        self._turns = asyncio.Semaphore(RUNNING_MAX)
        self._news = asyncio.Event()
        self._terms = 0
        self.is_known = False
        self.is_taken_up = False
        self.is_closed = False
        self.waiting = 0

    async def take_up(self) -> None:
        """This master's term begins: takes up what is stored; loads that were running when their master ended run
        again.

        Raises:
            NotLeader: it does not, or no longer; nothing runs. NotReady, PeerUnavailable: try again.
        """
        self.show(await self._store.begin())
        try:
            for job in sorted(self._jobs.values(), key=lambda job: job.status.created_s):
                await self._again(job)
        except NotLeader:
            await self.stand_down()
            raise
        self.is_taken_up = True

    async def adopt(self, stored: Sequence[LoadStatus]) -> None:
        """Runs what is stored and not run here: its storing seemed to have failed, or its master seemed not to lead."""
        for status in stored:
            job = self._jobs.get(status.load_id)
            if not status.is_over and (job is None or job.is_left):
                self._jobs[status.load_id] = _Job(status)
                await self._again(self._jobs[status.load_id])

    def show(self, stored: Sequence[LoadStatus]) -> None:
        """Another master runs the loads: they are as it stored them."""
        self.is_known = True
        if {status.load_id: status for status in stored} != {name: job.status for name, job in self._jobs.items()}:
            self._jobs = {status.load_id: _Job(status) for status in stored}
            self._tell()

    async def stand_down(self) -> None:
        """The term is over: stops what runs, and stores nothing, for whoever leads next takes it up."""
        self._terms += 1
        self.is_taken_up = False
        tasks = [job.task for job in self._jobs.values() if job.task is not None and not job.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def check(self) -> None:
        """Raises ``NotLeader`` where another master runs the loads."""
        self._store.check()

    @property
    def running(self) -> int:
        """Loads that are not over."""
        return sum(not job.status.is_over for job in self._jobs.values())

    def all(self) -> tuple[LoadStatus, ...]:
        """The newest first."""
        return tuple(sorted((j.status for j in self._jobs.values()), key=lambda s: s.created_s, reverse=True))

    def get(self, load_id: str) -> LoadStatus:
        """One of them. Raises NotFound."""
        return self._job(load_id).status

    async def begin(self, request: LoadRequest) -> LoadStatus:
        """A new load; it is durable when this returns.

        Raises:
            InvalidRequest: no normal path. NotFound: there is none such. Overloaded: too many are not over. NotLeader:
            another master runs them. PeerUnavailable, NotReady: it could not be stored, as far as is known; if it was
            all the same, it runs. What the under store said.
        """
        self.check()
        path = normalise(request.path)
        await self._catalog.lookup(path)
        self._check_open()
        if self.running >= LOADS_MAX:
            raise Overloaded("too many loads wait", limit=LOADS_MAX)
        now_s = time.time()
        request = msgspec.structs.replace(request, path=path)
        status = LoadStatus(
            load_id=f"load-{secrets.token_hex(6)}", request=request, state="queued", created_s=now_s, changed_s=now_s
        )
        job, term = _Job(status), self._terms
        self._jobs[status.load_id] = job
        try:
            await self._store.put(status)
        except ForebayError:
            self._jobs.pop(status.load_id, None)
            raise
        if self._terms == term:
            self._start(job)
            await self._forget_old()
        return job.status

    async def cancel(self, load_id: str) -> LoadStatus:
        """Ends a load; what is filled stays.

        Raises:
            NotFound: no such load. Conflict: it is over. NotLeader: another master runs it.
        """
        self.check()
        self._check_open()
        job = self._job(load_id)
        if job.status.is_over:
            raise Conflict(f"the load is over: it {job.status.state}", load_id=load_id)
        first, job.cancelled = not job.cancelled, True
        if job.task is not None:
            if first:
                job.task.cancel()
            await asyncio.wait([job.task])
        elif first:
            await self._step(job, Event.CANCELLED)
        return self._ended(job)

    async def changed(self, load_id: str, after_revision: int, wait_s: float) -> LoadStatus:
        """A load as soon as its revision is another, or as it is after ``wait_s``.

        Raises:
            NotFound: no such load. Overloaded: too many wait.
        """
        if self.waiting >= WAITERS_MAX:
            raise Overloaded("too many wait for loads; try again", limit=WAITERS_MAX)
        deadline = Deadline.after(wait_s)
        self.waiting += 1
        try:
            while self.get(load_id).revision == after_revision and not deadline.expired and not self.is_closed:
                try:
                    await asyncio.wait_for(self._news.wait(), deadline.remaining_s())
                except TimeoutError:
                    break
        finally:
            self.waiting -= 1
        return self.get(load_id)

    def close(self) -> None:
        """Nobody waits any more; what runs is taken up at the next start."""
        self.is_closed = True
        self._tell()

    # -- one load

    def _check_open(self) -> None:
        if self.is_closed:
            raise NotReady("the master is stopping")
        if not self.is_taken_up:
            raise NotReady("the loads are being taken up; try again")

    def _ended(self, job: _Job) -> LoadStatus:
        if job.status.is_over:
            return job.status
        self.check()
        raise NotReady("its end could not be stored; try again")

    def _job(self, load_id: str) -> _Job:
        if not self.is_known:
            raise NotReady("the loads have not been read yet; try again")
        if load_id not in self._jobs:
            raise NotFound("no such load, or it is forgotten", load_id=load_id)
        return self._jobs[load_id]

    async def _again(self, job: _Job) -> None:
        if not job.status.is_over:
            await self._step(job, Event.INTERRUPTED)
            self._start(job)

    def _start(self, job: _Job) -> None:
        self._spawner.spawn(f"load {job.status.load_id}", self._run(job, self._terms))

    async def _run(self, job: _Job, term: int) -> None:
        if self._terms != term:
            return
        job.task = asyncio.current_task()
        try:
            await self._to_its_end(job)
        except NotLeader as e:
            job.is_left = True
            LOG.warning("load_left", load_id=job.status.load_id, reason=e.message)
        else:
            LOG.info("load_over", load_id=job.status.load_id, state=job.status.state, reason=job.status.message)

    async def _to_its_end(self, job: _Job) -> None:
        try:
            async with self._turns:
                if not job.cancelled:
                    await self._go(job)
        except asyncio.CancelledError:
            if not job.cancelled:
                raise
            if not job.status.is_over:
                await self._step(job, Event.CANCELLED)
        except NotLeader:
            raise
        except (ForebayError, ExceptionGroup) as e:
            await self._broken(job, first_error(e) if isinstance(e, ExceptionGroup) else e)

    async def _broken(self, job: _Job, error: BaseException) -> None:
        if not isinstance(error, ForebayError):
            raise error
        if not job.status.is_over:
            await self._step(job, Event.BROKEN, message=f"{error.code}: {error.message}")

    async def _go(self, job: _Job) -> None:
        await self._step(job, Event.BEGUN, attempts=job.status.attempts + 1, message="")
        plan, placement_owners = await self._plan(job)
        if not placement_owners:
            return await self._step(job, Event.BROKEN, message="no worker owns blocks")
        why = refusal(plan.shares)
        if job.status.request.dry_run:
            return await self._step(job, Event.PLANNED, plan=plan, message=why or "all of it fits")
        if why and not job.status.request.partial:
            message = f"{why}; nothing was begun (partial: true loads what fits)"
            return await self._step(job, Event.WILL_NOT_FIT, plan=plan, message=message)
        await self._step(job, Event.STARTED, plan=plan, round=1)
        job.course = Course(progress_at_s=time.monotonic())
        while True:
            reasons = await self._fill(job)
            await self._step(job, Event.FILLED)
            audit = await self._audit(job, reasons)
            job.course, what = job.course.audited(audit.missing, audit.unreachable, time.monotonic())
            if what is Next.SUCCEED:
                return await self._step(job, Event.AGREED, missing_blocks=0, missing=(), message=_success(job.status))
            said = {"missing_blocks": audit.missing, "missing": tuple(audit.named), "message": audit.message()}
            if what is Next.GIVE_UP:
                return await self._step(job, Event.GIVEN_UP, **said)
            await self._step(job, Event.LACKING, round=job.status.round + 1, **said)
            await asyncio.sleep(ROUND_PAUSE_S)

    async def _plan(self, job: _Job) -> tuple[LoadPlan, bool]:
        needs: dict[str, Need] = {}
        files, seen = 0, ""
        members: dict[str, Member] = {}
        async for batch, owners in self._walk.batches(job.status.request):
            members |= owners
            for member_id, pieces in batch.items():
                need = needs.setdefault(member_id, Need())
                held = await self._held(owners[member_id], pieces)
                for piece in pieces:
                    need.add(piece.mount.mount_id, piece.length, is_held=piece.block_id in held)
            for path in sorted({p.path for pieces in batch.values() for p in pieces}):
                files += path != seen
                seen = path
        rooms = {name: await self._room(member) for name, member in members.items()}
        shares = tuple(share(name, need, rooms[name]) for name, need in sorted(needs.items()))
        blocks, size = sum(s.blocks for s in shares), sum(s.bytes for s in shares)
        has_owner = bool(needs) or self._walk.placement() is not None
        return LoadPlan(files=files, blocks=blocks, bytes=size, shares=shares), has_owner

    async def _held(self, member: Member, pieces: list[Piece]) -> set[str]:
        try:
            return set((await self._calls.holds(member, pieces)).complete)
        except AWAY:
            return set()

    async def _room(self, member: Member) -> Room:
        try:
            return room_of(await self._calls.status(member))
        except AWAY:
            return Room(answers=False)

    async def _fill(self, job: _Job) -> dict[tuple[str, str], str]:
        """One walk that has everything filled; why a block was not, by member and block, as far as that is known."""
        reasons: dict[tuple[str, str], str] = {}
        self._show(job, now=True, done_blocks=0, done_bytes=0)

        def held(piece: Piece, is_new: bool) -> None:
            status = job.status
            self._show(
                job,
                done_blocks=status.done_blocks + 1,
                done_bytes=status.done_bytes + piece.length,
                filled_bytes=status.filled_bytes + (piece.length if is_new else 0),
            )

        async def one(member: Member, pieces: list[Piece]) -> None:
            outcome = await fill(self._calls, member, pieces, held)
            for name, reason in outcome.reasons.items():
                if len(reasons) < MISSING_MAX:
                    reasons[member.member_id, name] = reason

        async for batch, members in self._walk.batches(job.status.request):
            async with asyncio.TaskGroup() as group:
                for member_id, pieces in batch.items():
                    group.create_task(one(members[member_id], pieces))
        return reasons

    async def _audit(self, job: _Job, reasons: dict[tuple[str, str], str]) -> _Audit:
        """One walk that changes nothing: what the workers really hold, against the namespace as it is now."""
        audit, verify = _Audit(), job.status.request.verify

        async def one(member: Member, pieces: list[Piece]) -> None:
            name = member.member_id
            try:
                reply = await self._calls.holds(member, pieces, verify=verify)
            except AWAY as e:
                for piece in pieces:
                    audit.lacks(piece, name, f"{name} does not answer ({e.code})", away=True)
                return
            complete, corrupt = set(reply.complete), set(reply.corrupt)
            for piece in pieces:
                if piece.block_id not in complete:
                    known = reasons.get((name, piece.block_id)) or reasons.get((name, ""), "it is not there (any more)")
                    rotten = "its bytes did not have their checksum" if piece.block_id in corrupt else known
                    audit.lacks(piece, name, rotten, away=(name, "") in reasons)

        async for batch, members in self._walk.batches(job.status.request):
            async with asyncio.TaskGroup() as group:
                for member_id, pieces in batch.items():
                    group.create_task(one(members[member_id], pieces))
        return audit

    # -- state

    async def _step(self, job: _Job, event: Event, **changes: object) -> None:
        """The next state, stored before it is told."""
        state = after(job.status.state, event)
        status = msgspec.structs.replace(job.status, **{**changes, "state": state, "changed_s": time.time()})
        status = msgspec.structs.replace(status, revision=status.revision + 1)
        await self._keep(status)
        job.status = status
        self._tell()

    async def _keep(self, status: LoadStatus) -> None:
        """Stores it, however long that takes. Raises ``NotLeader``: it is another master's now."""
        while True:
            try:
                return await self._store.put(status)
            except ForebayError as e:
                if isinstance(e, NotLeader) or not e.retryable:
                    raise
                LOG.warning("load_not_stored", load_id=status.load_id, code=e.code, reason=e.message)
                await asyncio.sleep(STORE_PAUSE_S)

    def _show(self, job: _Job, *, now: bool = False, **changes: int) -> None:
        """Progress: told now and then, and not stored."""
        job.status = msgspec.structs.replace(job.status, **changes)
        at_s = time.monotonic()
        if now or at_s - job.told_at_s >= SHOW_PERIOD_S:
            job.told_at_s = at_s
            job.status = msgspec.structs.replace(job.status, revision=job.status.revision + 1)
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _forget_old(self) -> None:
        over = sorted((j.status for j in self._jobs.values() if j.status.is_over), key=lambda s: s.changed_s)
        for status in over[: max(0, len(self._jobs) - LOADS_MAX)]:
            try:
                await self._store.remove(status.load_id)
            except ForebayError as e:  # the next one that begins tries again
                LOG.warning("load_not_forgotten", load_id=status.load_id, code=e.code, reason=e.message)
                return
            self._jobs.pop(status.load_id, None)


def _success(status: LoadStatus) -> str:
    blocks = status.plan.blocks if status.plan is not None else 0
    held = "every byte was compared with its checksum" if status.request.verify else "by the workers' own files"
    return f"all {blocks} blocks are held, {held}"
