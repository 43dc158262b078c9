"""The file system: the table of requests, and what happens to one. Inline where nothing has to be waited for.

Policy lives elsewhere: where bytes come from is the SDK's business, what may be cached is the master's word.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from forebay.runtime import logs
from forebay.telemetry import Telemetry
from forebay.telemetry.metrics import Cell
from forebay_fuse.answers import Answers, Sink
from forebay_fuse.backing import Backings
from forebay_fuse.changes import Changes
from forebay_fuse.files import Files
from forebay_fuse.flagged import Flagged
from forebay_fuse.handles import HandleTable
from forebay_fuse.hints import Hints, Order
from forebay_fuse.inodes import InodeTable
from forebay_fuse.journal import InitRecord, Journal, Kept, NoJournal
from forebay_fuse.listing import Listing
from forebay_fuse.names import Names
from forebay_fuse.opening import Opening
from forebay_fuse.protocol import layout, replies, requests
from forebay_fuse.protocol.layout import ROOT_ID, Op
from forebay_fuse.protocol.requests import ProtocolError, Request
from forebay_fuse.sdk import Client
from forebay_fuse.view import BASE, View
from forebay_fuse.virtual import Text, Trace, Traced, Virtual
from forebay_fuse.waits import Waits
from forebay_fuse.xattrs import Xattrs

WAITS_MAX = 1024
"""Requests that wait for the cluster; then the device is left unread until some have ended."""

OPCODES_MAX = 256
"""Kinds of requests whose counts are at hand: more than the protocol has."""

WRITE_MAX = 4096
"""Longest WRITE of the kernel; there are none, but it sizes the request buffer by it."""

WANTED = (
    layout.Init.ASYNC_READ | layout.Init.DO_READDIRPLUS | layout.Init.ASYNC_DIO | layout.Init.PARALLEL_DIROPS
    | layout.Init.ABORT_ERROR | layout.Init.MAX_PAGES | layout.Init.CACHE_SYMLINKS
    | layout.Init.EXPLICIT_INVAL_DATA | layout.Init.INIT_EXT | layout.Init.HAS_RESEND
    | layout.Init.DIRECT_IO_ALLOW_MMAP
)  # fmt: skip
_LOOKUP = int(Op.LOOKUP)
LOG = logs.get(__name__)

Inline = Callable[[Request], bool | None]
"""Answers, and says False if it could not without waiting."""

Waiting = Callable[[Request], Coroutine[Any, Any, None]]


class _ByOpcode(dict[int, Cell]):
    """A count for each kind of request, made when the first of it comes."""

    def __init__(self, make: Callable[[int], Cell]) -> None:
        self._make = make

    def __missing__(self, opcode: int) -> Cell:
        if len(self) >= OPCODES_MAX:
            return self._make(opcode)
        cell = self[opcode] = self._make(opcode)
        return cell


class Gateway:
    """One session's state and answers. ``attach`` a device, then feed it by ``handle``.

    ``negotiated`` is done when the kernel's INIT was answered; False: the kernel is too old.
    """

    def __init__(
        self,
        client: Client,
        view: View,
        inodes: InodeTable,
        telemetry: Telemetry,
        *,
        waits_max: int = WAITS_MAX,
        journal: Journal | None = None,
        texts: Mapping[str, Text] | None = None,
    ) -> None:
        self._view, self._tracer = view, telemetry.tracer
        self._journal = journal or NoJournal()
        self.inodes, self.handles = inodes, HandleTable(journal=self._journal)
        self._answers = Answers(telemetry.metrics)
        self.waits = Waits(waits_max, on_cancelled=self._answers.fail)
        self.negotiated: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        names = Names(client, view, inodes, self._answers)
        self._listing = listing = Listing(client, view, inodes, names, self.handles, answers=self._answers)
        self.files = files = Files(view, names, self.handles, self._answers, metrics=telemetry.metrics)
        files.again = self._unhelped
        self.opening = opening = Opening(client, view, names, self.handles, self._answers, metrics=telemetry.metrics)
        self.changes = Changes(client, inodes, names, self._answers, telemetry.metrics)
        opening.on_closed = listing.closed
        self._trace = Trace()
        own: dict[str, Text] = {"stats": telemetry.metrics.render, "trace": self._trace.text, **(texts or {})}
        self.virtual = Virtual(view, self._answers, own, hints=self._hints(client), later=self._later)
        self._flagged = Flagged(time.monotonic)
        xattrs = Xattrs(client, names, self._answers, self._flagged)
        self._backings: Backings | None = None
        self._count(telemetry)
        self._inline: dict[int, Inline] = {
            Op.LOOKUP: names.look_up,
            Op.READ: files.read,
            Op.GETATTR: names.getattr,
            Op.OPEN: opening.open,
            Op.RELEASE: opening.release,
            Op.RELEASEDIR: opening.release,
            Op.OPENDIR: listing.opendir,
            Op.READDIR: listing.readdir,
            Op.READDIRPLUS: listing.readdir,
            Op.FORGET: names.forget,
            Op.BATCH_FORGET: names.forget,
            **({Op.GETXATTR: xattrs.get, Op.LISTXATTR: xattrs.names} if view.xattrs else {}),
            Op.STATFS: self._statfs,
            Op.ACCESS: self._access,
            Op.INTERRUPT: lambda r: self.waits.interrupt(requests.interrupted(r)),
            Op.DESTROY: self._destroy,
            Op.INIT: self._init,
        }
        self._waiting: dict[int, Waiting] = {
            Op.READ: files.fetch,
            Op.GETATTR: names.refresh,
            Op.LOOKUP: names.ask,
            Op.READDIR: listing.fetch,
            Op.READDIRPLUS: listing.fetch,
            Op.OPEN: opening.fetch,
        }

    def _hints(self, client: Client) -> Hints | None:
        if not self._view.takes_hints:
            return None

        async def give(order: Order) -> int:
            return await client.hint(
                order.files, epoch=order.epoch, seed=order.seed, rank=order.rank, is_next=order.is_next
            )

        return Hints(give, self.inodes.root.path)

    def _count(self, telemetry: Telemetry) -> None:
        metrics = telemetry.metrics
        requests_total = metrics.counter("forebay_fuse_requests_total", "requests of the kernel", ("op",))
        self._requests = _ByOpcode(lambda opcode: requests_total.cell(layout.name_of(opcode)))
        metrics.observed("forebay_fuse_inodes", "inodes the kernel knows", lambda: len(self.inodes))
        metrics.observed("forebay_fuse_handles", "open files and directories", lambda: len(self.handles))
        metrics.observed("forebay_fuse_pending", "requests that wait for the cluster", lambda: len(self.waits))

    @property
    def pending(self) -> int:
        """Requests that wait for the cluster."""
        return len(self.waits)

    def attach(self, sink: Sink, backings: Backings | None = None) -> None:
        """Where replies go, and who registers files that the kernel is to read itself."""
        self._answers.sink = sink
        self._backings = backings

    def restore(self, kept: Kept) -> None:
        """Goes on where an earlier gateway has ended; once attached."""
        self.inodes.restore(kept.inodes, kept.node_max)
        self.opening.restore(kept, self.inodes)
        if kept.init is not None:
            self._agree(kept.init)

    async def leave(self) -> None:
        """Ends without a word to the kernel: a successor goes on."""
        self._answers.sink = None
        await self.waits.close()
        await self._listing.ahead.close()

    async def close(self) -> None:
        """Answers what waits (EINTR) and closes every open file."""
        await self.waits.close()
        self.opening.close()
        await self._listing.ahead.close()

    def handle(self, data: memoryview) -> None:
        """Answers one request. Nothing it does can end the session."""
        try:
            request = requests.decode(data)
        except ProtocolError as e:
            LOG.error("malformed_request", error=e.message)
            if e.unique:
                self._answers.fail(e.unique, errno.EIO)
            return
        try:
            self._dispatch(request)
        except Exception as e:  # noqa: BLE001  # one request fails, the mount lives on
            self._answers.refuse(request.opcode, request.unique, e)

    def _dispatch(self, request: Request) -> None:
        opcode = request.opcode
        self._requests[opcode].count += 1
        if (request.node_id >= BASE or request.node_id == ROOT_ID) and self._is_ours(request):
            return
        inline, waiting = self._inline.get(opcode), self._waiting.get(opcode)
        if inline is not None and self._flagged:
            inline = self._shown(inline)
        if inline is not None and inline(request) is not False:
            return
        if waiting is not None:  # the body is read again, and the device's buffer is not ours until then
            self._later(request._replace(body=memoryview(bytes(request.body))), waiting)
        else:
            self._answers.fail(request.unique, errno.EROFS if opcode in layout.WRITING else errno.ENOSYS)

    def _shown(self, inline: Inline) -> Inline:
        """As ``inline``, with a span where the node is flagged and the request need not wait."""

        def answer(request: Request) -> bool | None:
            context = self._flagged.of(request.node_id)
            if context is None:
                return inline(request)
            with self._tracer.start(f"fuse.{layout.name_of(request.opcode)}", kind="server", parent=context) as span:
                span.set("forebay.fuse.inline", True)
                done = inline(request)
                if done is False:
                    span.drop()
            return done

        return answer

    def _later(self, request: Request, waiting: Waiting) -> None:
        self.waits.add(request.unique, self._answer_later(request, waiting))

    def _unhelped(self, request: Request) -> None:
        """A READ that was in the hands of a data helper, which died or could not answer it."""
        try:
            if not self.files.read_alone(request):
                self._later(request, self.files.fetch)
        except Exception as e:  # noqa: BLE001  # one request fails, the mount lives on
            self._answers.refuse(request.opcode, request.unique, e)

    def _is_ours(self, request: Request) -> bool:
        """Answers what is about ``.forebay``."""
        if not self._view.has_virtual:
            return False
        if request.node_id == ROOT_ID:
            return request.opcode == _LOOKUP and self.virtual.look_up(request)
        self.virtual.handle(request)
        return True

    async def _answer_later(self, request: Request, waiting: Waiting) -> None:
        opcode, unique = request.opcode, request.unique
        name, began_s, outcome = layout.name_of(opcode), time.monotonic(), "cancelled"
        try:
            flagged = self._flagged.of(request.node_id) if self._flagged else None
            with self._tracer.start(f"fuse.{name}", kind="server", parent=flagged, root=True):
                await waiting(request)
            outcome = "ok"
        except Exception as e:  # noqa: BLE001  # one request fails, the mount lives on
            outcome = type(e).__name__
            self._answers.refuse(opcode, unique, e)
        finally:
            self._journal.settle()
            self._trace.add(Traced(time.time(), name, request.node_id, time.monotonic() - began_s, outcome))

    # -- the session

    def _init(self, request: Request) -> None:
        offered = requests.init_in(request)
        if (offered.major, offered.minor) < (layout.MAJOR, layout.MINOR_LEAST):
            LOG.error("kernel_too_old", major=offered.major, minor=offered.minor)
            self._answers.fail(request.unique, errno.EPROTO)
            self._negotiated(False)
            return
        if offered.major > layout.MAJOR:  # it asks again with the version we name
            self._answers.ok(request.unique, replies.version())
            return
        view = self._view
        wanted = WANTED | (layout.Init.PASSTHROUGH if view.wants_passthrough and self._backings else 0)
        flags = int(wanted) & offered.flags
        LOG.info("session", kernel=f"{offered.major}.{offered.minor}", flags=hex(flags))
        reply = replies.init(
            minor=min(offered.minor, layout.MINOR),
            max_readahead=offered.max_readahead,
            flags=flags,
            max_background=view.max_background,
            max_write=WRITE_MAX,
            max_pages=view.max_pages,
            stack_depth=view.stack_depth if flags & layout.Init.PASSTHROUGH else 0,
        )
        agreed = InitRecord(offered.minor, flags, view.max_pages, view.max_background)
        self._journal.negotiated(agreed)
        self._answers.ok(request.unique, reply)
        self._agree(agreed)

    def _agree(self, agreed: InitRecord) -> None:
        self.opening.passing.device = self._backings if agreed.flags & layout.Init.PASSTHROUGH else None
        self._negotiated(True)

    def _negotiated(self, agreed: bool) -> None:
        if not self.negotiated.done():
            self.negotiated.set_result(agreed)

    def _destroy(self, request: Request) -> None:
        self._answers.ok(request.unique)

    def _statfs(self, request: Request) -> None:
        """No size: what there is is the under store's, and a full disk would be a lie that pages somebody."""
        self._answers.ok(request.unique, replies.statfs(blocks=0, block_size=4096, files=0, name_max=255))

    def _access(self, request: Request) -> None:
        if requests.access_mask(request) & os.W_OK:
            self._answers.fail(request.unique, errno.EROFS)
        else:
            self._answers.ok(request.unique)
