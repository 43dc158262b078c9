"""The master's routes: a checked record in, a question to one part, a record out. They decide nothing."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from aiohttp import web

from forebay.contracts import (
    AccessesReply,
    AccessesRequest,
    BatchReply,
    BatchRequest,
    ChangesReply,
    ListReply,
    ListRequest,
    LookupReply,
    LookupRequest,
    Mount,
    MountRequest,
    MountsReply,
    SyncReply,
    SyncRequest,
    TicketReply,
    TicketRequest,
    TreeReply,
    TreeRequest,
    encode,
)
from forebay.contracts.names import ACCESSES_PATH, CHANGES_PATH, SYNC_PATH
from forebay.contracts.tree import BATCH_PATH, TREE_PATH
from forebay.discovery.routes import parse_wait
from forebay.errors import InvalidRequest, NotReady
from forebay.transport.app import read_json, read_record, record_response, require_admin, require_role
from forebay.transport.openapi import WAITING, operation
from forebay_master.access_times import AccessTimes
from forebay_master.catalog import Catalog
from forebay_master.changes import Feed
from forebay_master.mounts import Mounts
from forebay_master.ticketing import TicketOffice
from forebay_master.trees import Trees

COMPRESS_BYTES = 16 << 10
"""Answers from here on are compressed for who asks for it."""


PAGED = {"limit": "entries at most", "page_token": "where a page ended", "depth": "levels of directories below"}
"""The query of a page."""


@dataclass(frozen=True)
class MasterRoutes:
    """Until ``is_open`` says that the mount table is complete every route answers ``NotReady``: a path that is not
    mounted *yet* must not be told as not there."""

    catalog: Catalog
    mounts: Mounts
    trees: Trees
    tickets: TicketOffice
    feed: Feed
    accesses: AccessTimes
    is_open: Callable[[], bool]

    def add_to(self, app: web.Application) -> None:
        """Adds all routes."""
        app.router.add_post("/v1/lookup", self.lookup)
        app.router.add_post("/v1/list", self.list_page)
        app.router.add_get("/v1/dirs/{path:.*}", self.directory)
        app.router.add_post(TREE_PATH, self.tree)
        app.router.add_post(BATCH_PATH, self.batch)
        app.router.add_post(ACCESSES_PATH, self.accessed)
        app.router.add_get("/v1/mounts/{mount_id}/manifest", self.manifest)
        app.router.add_post(SYNC_PATH, self.sync)
        app.router.add_get(CHANGES_PATH, self.changes)
        app.router.add_post("/v1/tickets", self.ticket)
        app.router.add_get("/v1/mounts", self.show_mounts)
        app.router.add_post("/v1/mounts", self.mount)
        app.router.add_patch("/v1/mounts/{mount_id}", self.change_mount)
        app.router.add_delete("/v1/mounts/{mount_id}", self.unmount)

    @operation(takes=LookupRequest, gives=LookupReply)
    async def lookup(self, request: web.Request) -> web.Response:
        """Attributes and layout of one path."""
        asked = await read_record(request, LookupRequest)
        self._check_open()
        return record_response(await self.catalog.lookup(asked.path))

    @operation(takes=ListRequest, gives=ListReply)
    async def list_page(self, request: web.Request) -> web.Response:
        """A page of a directory, in byte order of names."""
        asked = await read_record(request, ListRequest)
        self._check_open()
        return await _bulk(request, await self.catalog.list_page(asked))

    @operation(gives=ListReply, query=PAGED)
    async def directory(self, request: web.Request) -> web.Response:
        """A page of a directory; with ``depth`` one that spans directories, as of ``POST /v1/tree``."""
        asked = directory_request(request.match_info["path"], request.query)
        self._check_open()
        page = self.trees.page(asked) if isinstance(asked, TreeRequest) else self.catalog.list_page(asked)
        return await _bulk(request, await page)

    @operation(takes=TreeRequest, gives=TreeReply)
    async def tree(self, request: web.Request) -> web.Response:
        """A page of names below a directory, directory by directory."""
        asked = await read_record(request, TreeRequest)
        self._check_open()
        return await _bulk(request, await self.trees.page(asked))

    @operation(takes=BatchRequest, gives=BatchReply)
    async def batch(self, request: web.Request) -> web.Response:
        """Attributes and layouts of up to 1,000 paths."""
        asked = await read_record(request, BatchRequest)
        self._check_open()
        reply = await self.trees.batch(asked)
        return await _bulk(request, await asyncio.to_thread(encode, reply))

    @operation(takes=AccessesRequest, gives=AccessesReply)
    async def accessed(self, request: web.Request) -> web.Response:
        """When files were opened, from readers with ``update_access_time``; lookups and listings tell it."""
        asked = await read_record(request, AccessesRequest)
        self._check_open()
        return record_response(AccessesReply(kept=await self.accesses.tell(asked)))

    @operation(gives=TreeReply, media="application/x-ndjson", query={"page_token": "where to go on"})
    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """Every name of a mount, one ``TreeReply`` a line. Who was cut off goes on with the last line's
        ``next_page_token``; that of the last line of all is ``null``."""
        self._check_open()
        pages = self.trees.manifest(request.match_info["mount_id"], request.query.get("page_token"))
        async with aclosing(pages):
            first = await anext(pages)
            response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
            if is_gzip_asked(request):
                response.enable_compression(web.ContentCoding.gzip)
            await response.prepare(request)
            await response.write(first)
            async for page in pages:
                await response.write(page)
            await response.write_eof()
        return response

    @operation(takes=SyncRequest, gives=SyncReply)
    async def sync(self, request: web.Request) -> web.Response:
        """Asks the under store now."""
        asked = await read_record(request, SyncRequest)
        self._check_open()
        return record_response(await self.catalog.sync(asked))

    @operation(gives=ChangesReply, query={**WAITING, "after": "the last answer's cursor"})
    async def changes(self, request: web.Request) -> web.Response:
        """What was found to have changed in the under stores since a cursor; waits for something."""
        _, wait_s = parse_wait(None, request.query.get("wait_s"))
        self._check_open()
        return record_response(await self.feed.changes(request.query.get("after"), wait_s))

    @operation(takes=TicketRequest, gives=TicketReply)
    async def ticket(self, request: web.Request) -> web.Response:
        """The right to read below the mount that holds a path."""
        asked = await read_record(request, TicketRequest)
        self._check_open()
        return record_response(await self.tickets.issue(asked))

    @operation(gives=MountsReply, query=WAITING)
    async def show_mounts(self, request: web.Request) -> web.Response:
        """The mount table; with ``after`` the answer waits until the revision is another."""
        require_role(request, "worker", "master", "admin")  # it names endpoints and credential profiles
        after, wait_s = parse_wait(request.query.get("after"), request.query.get("wait_s"))
        self._check_open()
        if after is None:
            return record_response(self.mounts.reply())
        return record_response(await self.mounts.changed(after, wait_s))

    @operation(takes=MountRequest, gives=Mount, is_admin=True, statuses=(200, 201))
    async def mount(self, request: web.Request) -> web.Response:
        """Mounts a source: 201 with the new mount, or 200 if it is there already."""
        require_admin(request)
        asked = await read_record(request, MountRequest)
        self._check_open()
        mount, is_new = await self.mounts.mount(asked)
        return record_response(mount, status=201 if is_new else 200)

    @operation(gives=Mount, is_admin=True)
    async def change_mount(self, request: web.Request) -> web.Response:
        """Changes options of a mount, given as a JSON object of them; the mount as it is now."""
        require_admin(request)
        changes = await read_json(request)
        self._check_open()
        return record_response(await self.mounts.change(request.match_info["mount_id"], changes))

    @operation(gives=Mount, is_admin=True)
    async def unmount(self, request: web.Request) -> web.Response:
        """Unmounts; the mount that was removed."""
        require_admin(request)
        self._check_open()
        return record_response(await self.mounts.unmount(request.match_info["mount_id"]))

    def _check_open(self) -> None:
        if not self.is_open():
            raise NotReady("the mounts are not set up yet; try again")


def directory_request(path: str, query: Mapping[str, str]) -> ListRequest | TreeRequest:
    """What ``GET /v1/dirs`` asks for.

    Raises:
        InvalidRequest: an unknown parameter, or an impossible value.
    """
    unknown = set(query) - {"limit", "page_token", "depth"}
    if unknown:
        raise InvalidRequest(f"there is no parameter {min(unknown)!r}")
    fields: dict[str, object] = {"path": f"/{path.lstrip('/')}", **query}
    try:
        fields |= {name: int(query[name]) for name in ("limit", "depth") if name in query}
        if "depth" in query:
            return msgspec.convert(fields, TreeRequest)
        return msgspec.convert(fields, ListRequest)
    except (ValueError, msgspec.ValidationError) as e:
        raise InvalidRequest(f"a parameter has an impossible value: {e}") from e


def is_gzip_asked(request: web.Request) -> bool:
    """Whether the caller takes gzip."""
    offered = request.headers.get("accept-encoding", "").lower().replace(" ", "").split(",")
    return any(each == "gzip" or (each.startswith("gzip;q=") and each != "gzip;q=0") for each in offered)


async def _bulk(request: web.Request, body: bytes) -> web.Response:
    """A long answer, compressed if asked: off the loop, for it is up to 3 MB."""
    headers = {"vary": "accept-encoding"}
    if len(body) >= COMPRESS_BYTES and is_gzip_asked(request):
        body = await asyncio.to_thread(gzip.compress, body, 1)
        headers["content-encoding"] = "gzip"
    return web.Response(body=body, content_type="application/json", headers=headers)
