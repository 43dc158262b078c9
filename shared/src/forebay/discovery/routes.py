"""The embedded registry's routes, for the application of the master that serves it.

``POST /v1/members:announce``, ``POST /v1/members:withdraw``, ``GET /v1/cluster[?after=REVISION&wait_s=SECONDS]``:
with ``after`` the answer waits for a newer map, or comes unchanged after ``wait_s`` (at most ``WAIT_MAX_S``).
"""

from __future__ import annotations

import time

from aiohttp import web

from forebay.contracts import AnnounceReply, AnnounceRequest, ClusterMap, WithdrawReply, WithdrawRequest
from forebay.contracts.tickets import KeyRing
from forebay.discovery.doors import ANNOUNCE_PATH, CLUSTER_PATH, PROOF_HEADER, WITHDRAW_PATH, check_proof
from forebay.discovery.hub import EmbeddedHub
from forebay.discovery.protocol import Registry
from forebay.errors import InvalidRequest, NotReady
from forebay.transport.app import read_record, record_response, require_role
from forebay.transport.openapi import WAITING, operation

WAIT_MAX_S = 60.0
PROOF = {PROOF_HEADER: "that the caller holds the cluster key"}


def add_registry_routes(app: web.Application, hub: EmbeddedHub, *, keys: KeyRing | None = None) -> None:
    """Adds the three routes. With ``keys`` only holders of the cluster key change who is a member, under mutual TLS
    only masters and workers, each as what its certificate names."""
    routes = _Routes(hub, keys)
    app.router.add_post(ANNOUNCE_PATH, routes.announce)
    app.router.add_post(WITHDRAW_PATH, routes.withdraw)
    app.router.add_get(CLUSTER_PATH, routes.cluster)


def add_map_route(app: web.Application, registry: Registry) -> None:
    """``GET /v1/cluster`` as above, of a master whose map comes from elsewhere: clients need no way of their own to it.

    While that is away the last good map is what there is.
    """

    async def cluster(request: web.Request) -> web.Response:
        after, wait_s = parse_wait(request.query.get("after"), request.query.get("wait_s"))
        if after is not None and wait_s > 0:
            await registry.changed(after, wait_s)
        known = registry.current()
        if known is None:
            raise NotReady("there is no cluster map yet; try again")
        return record_response(known)

    app.router.add_get(CLUSTER_PATH, cluster)


class _Routes:
    def __init__(self, hub: EmbeddedHub, keys: KeyRing | None) -> None:
        self._hub = hub
        self._keys = keys

    @operation(takes=AnnounceRequest, gives=AnnounceReply, headers=PROOF)
    async def announce(self, request: web.Request) -> web.Response:
        """A member says that it is there."""
        record = await read_record(request, AnnounceRequest)
        require_role(request, record.member.role)
        self._check(request, record.member.member_id)
        return record_response(await self._hub.announce(record, self._hub.clock()))

    @operation(takes=WithdrawRequest, gives=WithdrawReply, headers=PROOF)
    async def withdraw(self, request: web.Request) -> web.Response:
        """A member leaves."""
        record = await read_record(request, WithdrawRequest)
        require_role(request, "master", "worker")
        self._check(request, record.member_id)
        return record_response(await self._hub.withdraw(record, self._hub.clock()))

    @operation(gives=ClusterMap, query=WAITING)
    async def cluster(self, request: web.Request) -> web.Response:
        """The cluster map; with ``after`` the answer waits for a newer one."""
        after, wait_s = parse_wait(request.query.get("after"), request.query.get("wait_s"))
        if after is not None and wait_s > 0:
            await self._hub.maps.changed(after, wait_s)
        return record_response(self._hub.current())

    def _check(self, request: web.Request, member_id: str) -> None:
        if self._keys is not None:
            text = request.headers.get(PROOF_HEADER)
            check_proof(self._keys, self._hub.cluster_id, member_id, text, time.time())


def parse_wait(after: str | None, wait_s: str | None) -> tuple[int | None, float]:
    """The long poll's query: revision and seconds, the latter cut to ``WAIT_MAX_S``.

    Raises:
        InvalidRequest: no number, a negative one, or not finite.
    """
    try:
        revision = None if after is None else int(after)
        seconds = 0.0 if wait_s is None else float(wait_s)
    except ValueError as e:
        raise InvalidRequest("after is a whole number, wait_s a number of seconds") from e
    if (revision is not None and revision < 0) or not 0 <= seconds < float("inf"):
        raise InvalidRequest("after and wait_s are not negative")
    return revision, min(seconds, WAIT_MAX_S)
