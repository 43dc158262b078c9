"""A whole master in this process, over the real transport, with folders of files below it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from forebay.contracts import (
    Entry,
    ListReply,
    ListRequest,
    LookupReply,
    LookupRequest,
    MountsReply,
    StatusReply,
    TicketReply,
    TicketRequest,
)
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.transport import HttpClient, Reply
from forebay_master.app import Master, running
from forebay_master.settings import MasterSettings

READY_S = 20.0


@dataclass
class Service:
    """A running master and a client."""

    master: Master
    client: HttpClient

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.master.server.address

    async def lookup(self, path: str) -> LookupReply:
        """``POST /v1/lookup``."""
        return await self.client.call(
            self.address, "/v1/lookup", LookupRequest(path=path), LookupReply, deadline=Deadline.after(20)
        )

    async def page(self, path: str, token: str | None = None, limit: int = 10_000) -> ListReply:
        """``POST /v1/list``."""
        request = ListRequest(path=path, page_token=token, limit=limit)
        return await self.client.call(self.address, "/v1/list", request, ListReply, deadline=Deadline.after(20))

    async def entries(self, path: str, limit: int = 10_000) -> list[Entry]:
        """A whole directory."""
        found: list[Entry] = []
        token: str | None = None
        while True:
            page = await self.page(path, token, limit)
            found += page.entries
            token = page.next_page_token
            if token is None:
                return found

    async def ticket(self, path: str) -> TicketReply:
        """``POST /v1/tickets``."""
        request = TicketRequest(path=path, client_id="tester")
        return await self.client.call(self.address, "/v1/tickets", request, TicketReply, deadline=Deadline.after(20))

    async def mounts(self, query: str = "") -> MountsReply:
        """``GET /v1/mounts``."""
        return await self.client.call(
            self.address, f"/v1/mounts{query}", None, MountsReply, deadline=Deadline.after(40), method="GET"
        )

    async def status(self) -> StatusReply:
        """``GET /v1/status``."""
        return await self.client.call(
            self.address, "/v1/status", None, StatusReply, deadline=Deadline.after(20), method="GET"
        )

    async def send(
        self, method: str, path: str, body: bytes | Mapping[str, Any] = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Anything."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.client.fetch(
            self.address, method, path, body=data, headers=headers, deadline=Deadline.after(20)
        )

    async def refused(self, method: str, path: str, body: bytes | Mapping[str, Any] = b"") -> tuple[int, str]:
        """Status and code of an answer that is an error."""
        reply = await self.send(method, path, body)
        answer = orjson.loads(reply.body)
        assert "code" in answer, (reply.status, answer)
        return reply.status, answer["code"]


def settings(folder: Path, mounts: Sequence[str] = (), roots: Sequence[str] = (), **more: Any) -> MasterSettings:
    """A master's settings: any port, state below ``folder``, only ``roots`` (default: ``folder/data``) allowed."""
    given: dict[str, Any] = {
        "port": 0,
        "state_dir": folder / "state",
        "mount": tuple(mounts),
        "ufs_roots": tuple(roots) or (f"file://{folder}/data",),
        "cluster_id": "test",
        "member_id": "master",
        "drain_timeout_s": 0.5,
    }
    return MasterSettings(**(given | more))


@asynccontextmanager
async def service(given: MasterSettings) -> AsyncIterator[Service]:
    """A master, ready; at the end its invariants hold and nothing is under way."""
    client = HttpClient(quiet())
    try:
        async with running(given) as master:
            stop = asyncio.Event()
            life = asyncio.ensure_future(master.run(stop))
            try:
                async with asyncio.timeout(READY_S):
                    while master.waiting_for():
                        assert not life.done() or life.exception() is None, life.exception()
                        await asyncio.sleep(0.005)
                yield Service(master, client)
            finally:
                stop.set()
                await life
        master.mounts.validate()
        assert (master.database.reads, master.database.writes) == (0, 0)
    finally:
        await client.close()
