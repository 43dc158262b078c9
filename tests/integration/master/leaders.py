"""Several masters of one cluster as real processes, over a real ZooKeeper."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from forebay.contracts import LookupReply, LookupRequest, Mount, MountRequest, MountsReply, Record, StatusReply
from forebay.errors import ForebayError, NotLeader
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.transport import HttpClient
from tests.integration.master.kit import Process, process, ready

SESSION_S = 2.0
"""ZooKeeper rounds it up to its tick of 0.5 s."""

SOON_S = 30.0


@dataclass
class Masters:
    """The masters by name; ``m1`` was started first."""

    http: HttpClient
    data: Path
    processes: dict[str, Process] = field(default_factory=dict)

    async def ask(self, name: str, path: str, request: Record | None, kind: Any, *, seconds: float = 5.0) -> Any:
        """One call to one master."""
        method = "GET" if request is None else "POST"
        address = self.processes[name].address
        return await self.http.call(address, path, request, kind, deadline=Deadline.after(seconds), method=method)

    async def says(self, name: str) -> dict[str, Any]:
        """What a master's status shows."""
        status = await self.ask(name, "/v1/status", None, StatusReply)
        return dict(status.detail)

    async def leader(self, among: Sequence[str]) -> str:
        """Who of them leads, once exactly one says so."""
        found: list[str] = []

        async def one_leads() -> bool:
            shown = [(name, await self.says(name)) for name in among]
            found[:] = [name for name, detail in shown if detail["leading"]]
            return len(found) == 1 and all(detail.get("leader") == found[0] for _, detail in shown)

        await eventually(one_leads)
        return found[0]

    async def mount(self, name: str, path: str) -> Mount:
        """Mounts the folder of that name below ``data`` by a call to that master."""
        folder = self.data / path.strip("/")
        folder.mkdir(exist_ok=True)
        (folder / "file").write_bytes(path.encode())
        request = MountRequest(path=path, ufs_uri=f"file://{folder}")
        mount: Mount = await self.ask(name, "/v1/mounts", request, Mount)
        return mount

    async def mount_soon(self, names: Sequence[str], path: str) -> float:
        """Asks one after another until one has mounted it; seconds that took."""
        began_s = time.monotonic()

        async def one_did() -> bool:
            for name in names:
                try:
                    await self.mount(name, path)
                except ForebayError:
                    continue
                return True
            return False

        await eventually(one_did)
        return time.monotonic() - began_s

    async def paths(self, name: str) -> set[str]:
        """What is mounted, as one master sees it."""
        reply = await self.ask(name, "/v1/mounts", None, MountsReply)
        return {mount.path for mount in reply.mounts}

    async def all_see(self, names: Sequence[str], path: str) -> None:
        """Until every one of them has it mounted and answers lookups there."""

        async def they_do() -> bool:
            return all([path in await self.paths(name) for name in names])

        await eventually(they_do)
        for name in names:
            found = await self.ask(name, "/v1/lookup", LookupRequest(path=f"{path}/file"), LookupReply)
            assert found.entry.size == len(path)

    def signal(self, name: str, number: signal.Signals) -> None:
        """To one master."""
        self.processes[name].child.send_signal(number)

    async def refuses(self, name: str, path: str, leader: str) -> None:
        """That a master which does not lead says where the leader is."""
        with pytest.raises(NotLeader) as refused:
            await self.mount(name, path)
        assert refused.value.details["leader"] == self.processes[leader].address


@asynccontextmanager
async def masters(tmp_path: Path, registries: dict[str, str]) -> AsyncIterator[Masters]:
    """Masters that are ready, by name; each reaches ZooKeeper by its own address."""
    data = tmp_path / "data"
    (data / "given").mkdir(parents=True)
    (data / "given" / "file").write_bytes(b"/given")
    key = tmp_path / "cluster.key"
    key.write_text(f"k1 {secrets.token_hex(32)}\n")
    http = HttpClient(quiet(), connect_timeout_s=1.0)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(http.close)
        found = Masters(http, data)
        for name, registry in registries.items():
            flags = (
                *("--registry", registry, "--cluster-key-file", str(key), "--member-id", name),
                *("--state-dir", str(tmp_path / name), "--ufs-roots", f"file://{data}"),
                *("--mount", f"/given=file://{data / 'given'}", "--session-s", str(SESSION_S), "--down-s", "600"),
            )
            found.processes[name] = await stack.enter_async_context(process(*flags))
            await ready(found.processes[name])  # so the first one leads
        yield found


async def eventually(is_so: Callable[[], Any], *, seconds: float = SOON_S) -> None:
    """Polls until it is true; an error of ours means not yet."""
    deadline = Deadline.after(seconds)
    while True:
        try:
            if await is_so():
                return
            error: ForebayError | None = None
        except ForebayError as e:
            error = e
        assert not deadline.expired, error or "not within the time"
        await asyncio.sleep(0.05)
