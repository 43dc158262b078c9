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
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import msgspec

from forebay.balancing import Placement
from forebay.contracts import BlockTarget, ClusterMap, Entry, ListReply, ListRequest, Member, Mount, decode, identity
from forebay.contracts.loads import MISSING_MAX, LoadPlan, LoadRequest, LoadStatus, MissingBlock
from forebay.errors import CallerError, Conflict, ForebayError, NotFound, NotReady, Overloaded
from forebay.runtime import Deadline, Supervisor, logs
from forebay.runtime.supervisor import first_error
from forebay_master.catalog import Catalog
from forebay_master.load_plan import Need, Room, refusal, room_of, share
from forebay_master.load_state import Course, Event, Next, after
from forebay_master.load_store import JobStore
from forebay_master.loading import AWAY, Piece, WorkerCalls, fill
from forebay_master.mounts import Mounts
from forebay_master.namespace import normalise

LOADS_MAX = 1000
"""Loads that are remembered; those that are over and oldest are forgotten."""

RUNNING_MAX = 4
"""Loads that run at once; further ones are queued."""

BATCH_BLOCKS = 2048
"""Blocks that a walk hands on at a time."""

DIRECTORIES_MAX = 1_000_000
WAITERS_MAX = 1000
SHOW_PERIOD_S = 0.2
"""How often progress is told."""

ROUND_PAUSE_S = 2.0

LOG = logs.get(__name__)


@dataclass
class _Job:
    """A load that is not over, and who waits for news of it."""

    status: LoadStatus
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
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


Batch = dict[str, list[Piece]]


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
        self._mounts = mounts
        self._calls = calls
        self._spawner = spawner
        self._cluster_map = cluster_map
        self._jobs: dict[str, _Job] = {}
        self._turns = asyncio.Semaphore(RUNNING_MAX)
        self._news = asyncio.Event()
        self.is_closed = False
        self.waiting = 0

    async def resume(self) -> None:
        """Takes up what is stored; loads that were running when this master ended run again."""
        for status in sorted(await self._store.load(), key=lambda s: s.created_s):
            job = self._jobs[status.load_id] = _Job(status)
            if not status.is_over:
                await self._step(job, Event.INTERRUPTED)
                self._start(job)

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
            InvalidRequest: no normal path. NotFound: there is none such. Overloaded: too many are not over. What the
            under store said.
        """
        path = normalise(request.path)
        await self._catalog.lookup(path)
        if self.is_closed:
            raise NotReady("the master is stopping")
        if self.running >= LOADS_MAX:
            raise Overloaded("too many loads wait", limit=LOADS_MAX)
        now_s = time.time()
        request = msgspec.structs.replace(request, path=path)
        status = LoadStatus(
            load_id=f"load-{secrets.token_hex(6)}", request=request, state="queued", created_s=now_s, changed_s=now_s
        )
        job = self._jobs[status.load_id] = _Job(status)
        await self._store.put(status)
        await self._forget_old()
        self._start(job)
        return job.status

    async def cancel(self, load_id: str) -> LoadStatus:
        """Ends a load; what is filled stays.

        Raises:
            NotFound: no such load. Conflict: it is over.
        """
        job = self._job(load_id)
        if job.status.is_over:
            raise Conflict(f"the load is over: it {job.status.state}", load_id=load_id)
        job.cancelled = True
        if job.task is not None:
            job.task.cancel()
            await asyncio.wait([job.task])
        elif not job.status.is_over:
            await self._step(job, Event.CANCELLED)
        return job.status

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

    def _job(self, load_id: str) -> _Job:
        if load_id not in self._jobs:
            raise NotFound("no such load; its master has forgotten it, or it is another's", load_id=load_id)
        return self._jobs[load_id]

    def _start(self, job: _Job) -> None:
        self._spawner.spawn(f"load {job.status.load_id}", self._run(job))

    async def _run(self, job: _Job) -> None:
        job.task = asyncio.current_task()
        try:
            async with self._turns:
                if not job.cancelled:
                    await self._go(job)
        except asyncio.CancelledError:
            if not job.cancelled:
                raise
            if not job.status.is_over:
                await self._step(job, Event.CANCELLED)
        except (ForebayError, ExceptionGroup) as e:
            await self._broken(job, first_error(e) if isinstance(e, ExceptionGroup) else e)
        LOG.info("load_over", load_id=job.status.load_id, state=job.status.state, reason=job.status.message)

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
        async for batch, owners in self._walk(job.status.request):
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
        has_owner = bool(needs) or self._placement() is not None
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

        async for batch, members in self._walk(job.status.request):
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

        async for batch, members in self._walk(job.status.request):
            async with asyncio.TaskGroup() as group:
                for member_id, pieces in batch.items():
                    group.create_task(one(members[member_id], pieces))
        return audit

    # -- what lies below a path, and whose it is

    def _placement(self) -> Placement | None:
        known = self._cluster_map()
        placement = Placement(known) if known is not None else None
        return placement if placement is not None and placement.owners else None

    async def _walk(self, request: LoadRequest) -> AsyncIterator[tuple[Batch, dict[str, Member]]]:
        """All blocks below the path by their owners, in batches; the owners are those of the map at each batch."""
        pieces: list[Piece] = []
        async for path, entry, mount in self._files(request.path):
            pieces += pieces_of(path, entry, mount)
            while len(pieces) >= BATCH_BLOCKS:
                yield self._owned(pieces[:BATCH_BLOCKS], request.replicas)
                pieces = pieces[BATCH_BLOCKS:]
        if pieces:
            yield self._owned(pieces, request.replicas)

    def _owned(self, pieces: list[Piece], replicas: int | None) -> tuple[Batch, dict[str, Member]]:
        placement = self._placement()
        if placement is None:
            raise NotReady("no worker owns blocks")
        batch: Batch = {}
        for piece in pieces:
            for member in placement.ranked(piece.block_id, replicas or piece.mount.replicas):
                batch.setdefault(member.member_id, []).append(piece)
        return batch, {m.member_id: m for m in placement.owners}

    async def _files(self, path: str) -> AsyncIterator[tuple[str, Entry, Mount]]:
        found = await self._catalog.lookup(path)
        if found.entry.kind == "file":
            yield path, found.entry, self._mount(found.mount_id)
            return
        pending, seen = [path.rstrip("/")], 0
        while pending:
            directory = pending.pop()
            seen += 1
            if seen > DIRECTORIES_MAX:
                raise CallerError(f"more than {DIRECTORIES_MAX} directories lie below {path}")
            token: str | None = None
            while True:
                request = ListRequest(path=directory or "/", page_token=token)
                page = decode(ListReply, await self._catalog.list_page(request))
                for entry in page.entries:
                    if entry.kind == "dir":
                        pending.append(f"{directory}/{entry.name}")
                    else:
                        yield f"{directory}/{entry.name}", entry, self._mount(page.mount_id)
                token = page.next_page_token
                if token is None:
                    break

    def _mount(self, mount_id: str | None) -> Mount:
        mount = next((m for m in self._mounts.table.mounts if m.mount_id == mount_id), None)
        if mount is None:
            raise NotFound("the mount is gone", mount_id=mount_id)
        return mount

    # -- state

    async def _step(self, job: _Job, event: Event, **changes: object) -> None:
        """The next state, stored before it is told."""
        state = after(job.status.state, event)
        status = msgspec.structs.replace(job.status, **{**changes, "state": state, "changed_s": time.time()})
        job.status = msgspec.structs.replace(status, revision=status.revision + 1)
        await self._store.put(job.status)
        self._tell()

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
            del self._jobs[status.load_id]
            await self._store.remove(status.load_id)


def pieces_of(path: str, entry: Entry, mount: Mount) -> list[Piece]:
    """The blocks of a file; none of an empty one. Pure."""
    layout = entry.layout
    if layout is None:
        return []
    return [
        Piece(
            path,
            identity.block_id(layout.version_id, layout.block_size, index),
            mount,
            BlockTarget(
                mount_id=mount.mount_id, key=layout.key, size=layout.size, fingerprint=layout.fingerprint, index=index
            ),
            identity.block_length(layout.size, layout.block_size, index),
        )
        for index in range(identity.block_count(layout.size, layout.block_size))
    ]


def _success(status: LoadStatus) -> str:
    blocks = status.plan.blocks if status.plan is not None else 0
    held = "every byte was compared with its checksum" if status.request.verify else "by the workers' own files"
    return f"all {blocks} blocks are held, {held}"
