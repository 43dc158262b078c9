"""Two ways to the embedded registry: over HTTP, and straight into the hub for the master that serves it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from forebay.contracts import (
    AnnounceReply,
    AnnounceRequest,
    ClusterMap,
    WithdrawReply,
    WithdrawRequest,
)
from forebay.contracts.tickets import KeyRing, TicketClaims, sign, verify
from forebay.discovery.hub import EmbeddedHub
from forebay.errors import ForebayError, PermissionDenied, Unauthenticated
from forebay.runtime import Deadline

if TYPE_CHECKING:
    from forebay.transport import HttpClient

ANNOUNCE_PATH = "/v1/members:announce"
WITHDRAW_PATH = "/v1/members:withdraw"
CLUSTER_PATH = "/v1/cluster"

PROOF_HEADER = "forebay-ticket"
PROOF_RIGHTS = "announce"
PROOF_TTL_S = 60.0


class Door(Protocol):
    """What the registry client asks of the hub."""

    address: str
    is_local: bool

    async def announce(self, request: AnnounceRequest, deadline: Deadline) -> AnnounceReply:
        """Announces or renews."""

    async def withdraw(self, request: WithdrawRequest, deadline: Deadline) -> WithdrawReply:
        """Leaves."""

    async def cluster(self, after: int | None, wait_s: float, deadline: Deadline) -> ClusterMap:
        """The map; with ``after`` it may wait up to ``wait_s`` for a newer one."""


class HttpDoor:
    """The hub of a master; of several ``peers`` one at a time, the next after one has failed. With a key ring each
    announcement carries a proof (see ``proof``)."""

    def __init__(
        self, client: HttpClient, peers: Sequence[str], *, cluster_id: str, keys: KeyRing | None = None
    ) -> None:
        self.address = ",".join(peers)
        self._peers = deque(peers)
        self.is_local = False
        self._client = client
        self._cluster_id = cluster_id
        self._keys = keys

    async def announce(self, request: AnnounceRequest, deadline: Deadline) -> AnnounceReply:
        """``POST /v1/members:announce``."""
        headers = self._proof(request.member.member_id)
        with self._next_after_failure() as peer:
            return await self._client.call(
                peer, ANNOUNCE_PATH, request, AnnounceReply, deadline=deadline, headers=headers
            )

    async def withdraw(self, request: WithdrawRequest, deadline: Deadline) -> WithdrawReply:
        """``POST /v1/members:withdraw``."""
        headers = self._proof(request.member_id)
        with self._next_after_failure() as peer:
            return await self._client.call(
                peer, WITHDRAW_PATH, request, WithdrawReply, deadline=deadline, headers=headers
            )

    async def cluster(self, after: int | None, wait_s: float, deadline: Deadline) -> ClusterMap:
        """``GET /v1/cluster``."""
        query = "" if after is None else f"?after={after}&wait_s={wait_s:g}"
        path = CLUSTER_PATH + query
        with self._next_after_failure() as peer:
            return await self._client.call(peer, path, None, ClusterMap, deadline=deadline, method="GET")

    @contextmanager
    def _next_after_failure(self) -> Iterator[str]:
        peer = self._peers[0]
        try:
            yield peer
        except ForebayError as e:
            if e.retryable and self._peers[0] == peer:  # of calls that fail together only one turns
                self._peers.rotate(-1)
            raise

    def _proof(self, member_id: str) -> dict[str, str]:
        if self._keys is None:
            return {}
        return {PROOF_HEADER: proof(self._keys, self._cluster_id, member_id, time.time())}


class LocalDoor:
    """The hub in this very process."""

    def __init__(self, hub: EmbeddedHub) -> None:
        self.address = "this process"
        self.is_local = True
        self._hub = hub

    async def announce(self, request: AnnounceRequest, deadline: Deadline) -> AnnounceReply:
        """Straight into the hub."""
        async with deadline.timeout():
            return await self._hub.announce(request, self._hub.clock())

    async def withdraw(self, request: WithdrawRequest, deadline: Deadline) -> WithdrawReply:
        """Straight into the hub."""
        async with deadline.timeout():
            return await self._hub.withdraw(request, self._hub.clock())

    async def cluster(self, after: int | None, wait_s: float, deadline: Deadline) -> ClusterMap:
        """Straight from the hub."""
        if after is not None:
            await self._hub.maps.changed(after, min(wait_s, deadline.remaining_s()))
        return self._hub.current()


def proof(keys: KeyRing, cluster_id: str, member_id: str, now_s: float) -> str:
    """A short-lived ticket that says: a holder of the cluster key announces this member. It opens no mount."""
    claims = TicketClaims(
        cluster=cluster_id,
        mount_id="",
        generation=0,
        prefix="",
        client=member_id,
        rights=PROOF_RIGHTS,
        expires_at_s=now_s + PROOF_TTL_S,
    )
    return sign(keys, claims)


def check_proof(keys: KeyRing, cluster_id: str, member_id: str, text: str | None, now_s: float) -> None:
    """Lets only holders of the cluster key change who is a member.

    Raises:
        Unauthenticated: no proof, or a forged or expired one. PermissionDenied: a ticket for something else.
    """
    if not text:
        raise Unauthenticated("members prove that they hold the cluster key; set cluster_key_file", reason="missing")
    claims = verify(keys, text, cluster=cluster_id, now_s=now_s)
    if claims.rights != PROOF_RIGHTS or claims.client != member_id:
        raise PermissionDenied("that ticket is no right to announce this member", reason="wrong_rights")
