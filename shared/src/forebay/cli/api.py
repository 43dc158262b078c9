"""A cluster as the commands see it: the SDK for names and bytes, calls with the admin token for the rest."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from forebay.client import Client, ClientOptions
from forebay.contracts import Member, Mount, MountsReply, Record, TicketReply, TicketRequest
from forebay.contracts.members import master_addresses
from forebay.errors import ConfigError, ForebayError, NotFound, PeerMisbehaved, PeerUnavailable
from forebay.runtime import Deadline, logs
from forebay.runtime.config import TOKEN_MIN_CHARS
from forebay.runtime.tls import tls_files
from forebay.telemetry import Telemetry, quiet
from forebay.transport import HttpClient
from forebay.transport.client import error_of

START_S = 5.0
CALL_S = 30.0
REGISTRY_DEFAULT = "http://127.0.0.1:7070"

R = TypeVar("R", bound=Record)
T = TypeVar("T")


@dataclass(frozen=True)
class Where:
    """Which cluster, and how to reach it. The files are for clusters with TLS and for administrators; ``config`` is
    where some of this was read."""

    registry: str = REGISTRY_DEFAULT
    cluster_id: str = "forebay"
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    admin_token_file: Path | None = None
    config: Path | None = None

    def options(self, **changes: Any) -> ClientOptions:
        """Options of a client of this cluster."""
        given: dict[str, Any] = {
            "registry": self.registry,
            "client_id": f"cli-{os.getpid()}-{secrets.token_hex(3)}",
            "cluster_id": self.cluster_id,
            "tls_ca": self.tls_ca,
            "tls_cert": self.tls_cert,
            "tls_key": self.tls_key,
            "start_deadline_s": START_S,
        }
        return ClientOptions(**(given | changes))

    def token(self) -> str | None:
        """The admin token.

        Raises:
            ConfigError: its file cannot be read, or holds none.
        """
        if self.admin_token_file is None:
            return None
        try:
            token = self.admin_token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError("--admin-token-file", f"{self.admin_token_file} cannot be read: {e}") from e
        if len(token) < TOKEN_MIN_CHARS or not token.isascii() or " " in token:
            raise ConfigError("--admin-token-file", f"{self.admin_token_file} holds no token")
        logs.hide(token)
        return token


class Api:
    """``run`` makes one. ``client`` is the SDK's; ``http`` for calls to one service by its address."""

    def __init__(self, where: Where, client: Client, http: HttpClient, token: str | None) -> None:
        self.where = where
        self.client = client
        self.http = http
        self._headers: Mapping[str, str] = {"authorization": f"Bearer {token}"} if token else {}

    # -- who is there

    def members(self, role: str | None = None) -> list[Member]:
        """The members of the map, in the order of their ids."""
        found = self.client.cluster_map
        members = sorted(found.members if found else (), key=lambda m: (m.role, m.member_id))
        return [m for m in members if role is None or m.role == role]

    def member(self, name: str) -> Member:
        """A worker by its id.

        Raises:
            NotFound: there is none; the nearest is named.
        """
        from forebay.cli.door import nearest

        known = {m.member_id: m for m in self.members("worker")}
        if name not in known:
            raise NotFound(f"no worker is called {name}{nearest(name, known)}; 'forebay workers list' shows them")
        return known[name]

    def masters(self) -> list[str]:
        """Addresses of the masters; an embedded registry's own is one."""
        url = urlsplit(self.where.registry)
        own = [url.netloc] if url.scheme in ("http", "https") else []
        return list(dict.fromkeys([*master_addresses(self.client.cluster_map), *own]))

    # -- calls

    async def call(
        self, peer: str, method: str, path: str, kind: type[R], body: Record | None = None, *, wait_s: float = CALL_S
    ) -> R:
        """A call to one service. Raises what it answers."""
        return await self.http.call(
            peer, path, body, kind, deadline=Deadline.after(wait_s), method=method, headers=self._headers
        )

    async def json(self, peer: str, method: str, path: str, body: Any = None, *, wait_s: float = CALL_S) -> Any:
        """As ``call``, plain JSON both ways."""
        headers = {**self._headers, **({"content-type": "application/json"} if body is not None else {})}
        data = orjson.dumps(body) if body is not None else b""
        reply = await self.http.fetch(peer, method, path, body=data, headers=headers, deadline=Deadline.after(wait_s))
        if not 200 <= reply.status < 300:
            raise error_of(peer, reply.status, reply.body)
        try:
            return orjson.loads(reply.body)
        except orjson.JSONDecodeError as e:
            raise PeerMisbehaved(f"{peer}{path} answered no JSON") from e

    async def text(self, peer: str, path: str) -> str:
        """A page of text of a service."""
        reply = await self.http.fetch(peer, "GET", path, headers=self._headers, deadline=Deadline.after(CALL_S))
        if reply.status != 200:
            raise error_of(peer, reply.status, reply.body)
        return reply.body.decode(errors="replace")

    async def master(
        self, method: str, path: str, kind: type[R], body: Record | None = None, *, wait_s: float = CALL_S
    ) -> R:
        """A call to the first master that answers; ``NotFound`` is believed only of the last.

        Raises:
            ForebayError: what it said; ``PeerUnavailable`` where none answers.
        """
        error: ForebayError = PeerUnavailable(f"no master is known at {self.where.registry}")
        for peer in self.masters():
            try:
                return await self.call(peer, method, path, kind, body, wait_s=wait_s)
            except ForebayError as e:
                if not (e.retryable or isinstance(e, NotFound)):
                    raise
                error = e
        raise error

    async def mounts(self) -> list[Mount]:
        """The mount table."""
        return list((await self.master("GET", "/v1/mounts", MountsReply)).mounts)

    async def mount_of(self, path: str) -> Mount:
        """The mount that holds ``path``. Raises NotFound."""
        request = TicketRequest(path=path, client_id=self.client.options.client_id)
        return (await self.master("POST", "/v1/tickets", TicketReply, request)).mount


async def connected(where: Where, work: Callable[[Api], Awaitable[T]], telemetry: Telemetry | None = None) -> T:
    """``work`` with a connected cluster.

    Raises:
        PeerUnavailable: nothing answers; says where it looked.
    """
    token = where.token()
    observed = telemetry or quiet()
    client = Client(where.options(), observed)
    http = HttpClient(
        observed,
        tls=tls_files(cert=where.tls_cert, key=where.tls_key, ca=where.tls_ca, cluster_id=where.cluster_id),
    )
    try:
        try:
            await client.start()
        except ForebayError as e:
            if e.retryable:
                raise PeerUnavailable(f"nothing answers at {where.registry}: {e.message}") from e
            raise
        return await work(Api(where, client, http, token))
    finally:
        await http.close()
        await client.close()


def run(where: Where, work: Callable[[Api], Awaitable[T]]) -> T:
    """As `connected`, from a command."""
    return asyncio.run(connected(where, work))
