"""``/v1/loads``: begin, look, wait, cancel, and progress as server-sent events."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from forebay.contracts import encode
from forebay.contracts.loads import LOADS_PATH, LoadRequest, LoadsReply, LoadStatus
from forebay.discovery.routes import parse_wait
from forebay.errors import NotReady
from forebay.transport.app import read_record, record_response, require_admin, require_role
from forebay.transport.openapi import WAITING, operation
from forebay_master.loads import Loads

HEARTBEAT_S = 10.0
"""How often a stream of events says that it lives."""


class LoadRoutes:
    """Over the loads of one master. What changes the cache is for administrators."""

    def __init__(self, loads: Loads, is_open: Callable[[], bool]) -> None:
        self._loads = loads
        self._is_open = is_open

    def add_to(self, app: web.Application) -> None:
        """Registers the routes."""
        one = f"{LOADS_PATH}/{{load_id}}"
        app.router.add_post(LOADS_PATH, self.begin)
        app.router.add_get(LOADS_PATH, self.all, allow_head=False)
        app.router.add_get(one, self.look, allow_head=False)
        app.router.add_delete(one, self.cancel)
        app.router.add_get(f"{one}/events", self.events, allow_head=False)

    @operation(takes=LoadRequest, gives=LoadStatus, is_admin=True, statuses=(201,))
    async def begin(self, request: web.Request) -> web.Response:
        """Begins a load: a durable job that fills the cache with all files below a path."""
        require_admin(request)
        asked = await read_record(request, LoadRequest)
        if not self._is_open():
            raise NotReady("the mounts are not set up yet; try again")
        return record_response(await self._loads.begin(asked), status=201)

    @operation(gives=LoadsReply)
    async def all(self, request: web.Request) -> web.Response:
        """All loads that are remembered, the newest first; those of another master as they were last stored."""
        require_role(request, "worker", "master", "admin")
        return record_response(LoadsReply(loads=self._loads.all()))

    @operation(gives=LoadStatus, query=WAITING)
    async def look(self, request: web.Request) -> web.Response:
        """One load; with ``after`` the answer waits until its revision is another.

        Any master gives what is stored; what happens meanwhile is told by the leader, who runs it.
        """
        require_role(request, "worker", "master", "admin")
        name = request.match_info["load_id"]
        revision, wait_s = parse_wait(request.query.get("after"), request.query.get("wait_s"))
        status = self._loads.get(name)
        if revision is None:
            return record_response(status)
        if not status.is_over:
            self._loads.check()
        return record_response(await self._loads.changed(name, revision, wait_s))

    @operation(gives=LoadStatus, is_admin=True)
    async def cancel(self, request: web.Request) -> web.Response:
        """Cancels a load; what is filled stays."""
        require_admin(request)
        return record_response(await self._loads.cancel(request.match_info["load_id"]))

    @operation(gives=LoadStatus, media="text/event-stream")
    async def events(self, request: web.Request) -> web.StreamResponse:
        """Progress as server-sent events, each with the load as data, until it is over; the leader tells it."""
        require_role(request, "worker", "master", "admin")
        name = request.match_info["load_id"]
        status = self._loads.get(name)
        if not status.is_over:
            self._loads.check()
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-store"})
        await response.prepare(request)
        await response.write(event_of(status))
        while not status.is_over:
            newer = await self._loads.changed(name, status.revision, HEARTBEAT_S)
            if newer.revision == status.revision and not newer.is_over:
                if self._loads.is_closed or not self._loads.is_taken_up:
                    break  # the end of a stream of a load that is not over: whoever leads now goes on telling
                await response.write(b": alive\n\n")
                continue
            status = newer
            await response.write(event_of(status))
        await response.write_eof()
        return response


def event_of(status: LoadStatus) -> bytes:
    """One event. Pure."""
    kind = "over" if status.is_over else "progress"
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (status.revision, kind.encode(), encode(status))
