"""``kill -9`` of the leading master under load: how long until another makes changes, and whether a read fails.

Two masters over a real ZooKeeper, one worker, one client that reads an open file and files whose layouts it holds all
the time. The clock starts when the dead leader's candidate goes from ZooKeeper, which is the end of its session, and
stops when a mount made by a call is there. Both figures come from the same rounds.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bench.figures import Figure, Options, environment, say
from forebay.client import Client, ClientOptions
from forebay.contracts import Mount, MountRequest, StatusReply
from forebay.discovery.access import Access
from forebay.discovery.znodes import Paths
from forebay.discovery.zookeeper import ZooKeeper
from forebay.errors import ForebayError
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing.tools import free_ports
from forebay.testing.zookeeper import ZooKeeperServer
from forebay.transport import HttpClient

ROUNDS, QUICK_ROUNDS = 3, 1
SESSION_S = 4.0
GOAL_S = 10.0
WAIT_S = 40.0
FILES, FILE_BYTES = 16, 1 << 20
CHROOT = "/bench"


@dataclass
class Load:
    """What the reading client did and saw."""

    reads: int = 0
    errors: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


class Site:
    """The processes and the folder of one run."""

    def __init__(self, folder: Path, zookeeper: str) -> None:
        self.folder, self.ports = folder, free_ports(3)
        self.registry = f"zookeeper://{zookeeper}{CHROOT}"
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "data").mkdir()
        (folder / "tier").mkdir()
        (folder / "key").write_text(f"k1 {secrets.token_hex(32)}\n")
        for number in range(FILES):
            (folder / "data" / f"{number}").write_bytes(os.urandom(FILE_BYTES))

    def start(self, name: str) -> None:
        """``m0``, ``m1`` or ``worker``."""
        number = {"m0": 0, "m1": 1, "worker": 2}[name]
        data = f"file://{self.folder}/data"
        common = ["--registry", self.registry, "--cluster-key-file", f"{self.folder}/key", "--ufs-roots", data]
        common += ["--host", "127.0.0.1", "--port", str(self.ports[number]), "--member-id", name]
        if name == "worker":
            own = ["--tier-dirs", f"MEM:{self.folder}/tier:256MiB", "--state-dir", f"{self.folder}/worker"]
            module = "forebay_worker"
        else:
            own = ["--mount", f"/d={data}", "--session-s", str(SESSION_S), "--state-dir", f"{self.folder}/{name}"]
            module = "forebay_master"
        with (self.folder / f"{name}.log").open("ab") as log:
            self.children[name] = subprocess.Popen([sys.executable, "-m", module, *common, *own], stderr=log)

    def address(self, name: str) -> str:
        """Of a master."""
        return f"127.0.0.1:{self.ports[int(name[1])]}"

    def close(self) -> None:
        """Ends all."""
        for child in self.children.values():
            child.kill()
            child.wait()


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Asks every 20 ms; an error of ours means not yet."""
    deadline = Deadline.after(WAIT_S)
    while True:
        try:
            if await is_so():
                return
        except ForebayError:
            pass
        if deadline.expired:
            raise RuntimeError("the cluster did not get there in time")
        await asyncio.sleep(0.02)


class Run:
    """One run's clients and looks."""

    def __init__(self, site: Site, http: HttpClient, bare: ZooKeeper) -> None:
        self.site, self.http, self.bare = site, http, bare
        self.candidates = Paths(CHROOT, "forebay").candidates

    async def leader(self) -> str:
        """The master that leads and is ready, when both are."""
        found: list[str] = []

        async def is_so() -> bool:
            shown = {name: await self._status(name) for name in ("m0", "m1")}
            found[:] = [name for name, status in shown.items() if status.detail["leading"]]
            return len(found) == 1 and all(status.ready for status in shown.values())

        await until(is_so)
        return found[0]

    async def _status(self, name: str) -> StatusReply:
        address = self.site.address(name)
        return await self.http.call(address, "/v1/status", None, StatusReply, deadline=Deadline.after(2), method="GET")

    async def failover(self, number: int) -> dict[str, Any]:
        """Kills the leader; seconds to the end of its session, and from there to a change."""
        leader = await self.leader()
        other = "m1" if leader == "m0" else "m0"
        killed_s = time.monotonic()
        self.site.children[leader].kill()
        self.site.children[leader].wait()

        async def has_ended() -> bool:
            return len(await self.bare.children(self.candidates)) < 2

        await until(has_ended)
        ended_s = time.monotonic()
        folder = self.site.folder / "data" / f"mounted-{number}"
        folder.mkdir()
        request = MountRequest(path=f"/new-{number}", ufs_uri=f"file://{folder}")

        async def is_mounted() -> bool:
            address = self.site.address(other)
            await self.http.call(address, "/v1/mounts", request, Mount, deadline=Deadline.after(5))
            return True

        await until(is_mounted)
        took_s = time.monotonic() - ended_s
        self.site.start(leader)
        await self.leader()
        return {"session_ended_s": round(ended_s - killed_s, 3), "failover_s": round(took_s, 3)}


async def read_on(client: Client, load: Load) -> None:
    """Reads a file that stays open, and others by layouts that are held, and counts what fails."""
    opened = await client.open("/d/0")
    layouts = [await client.lookup(f"/d/{number}") for number in range(1, FILES)]
    turn = 0
    while True:
        turn += 1
        found = layouts[turn % len(layouts)]
        began_s = time.monotonic()
        try:
            assert found.entry.layout is not None
            assert found.mount_id is not None
            reader = client.open_layout(found.mount_id, found.entry.layout, f"/d/{found.entry.name}")
            try:
                for each in (opened, reader):
                    load.reads += 1
                    await each.read(4096 * (turn % 200), 4096)
            finally:
                await reader.close()
        except ForebayError as e:
            load.errors.append(f"{e.code}: {e.message}")
        load.slowest_s = max(load.slowest_s, time.monotonic() - began_s)
        await asyncio.sleep(0.002)


async def rounds(site: Site, zookeeper: str, count: int) -> tuple[list[dict[str, Any]], Load]:
    """All rounds under one load."""
    load, http = Load(), HttpClient(quiet(), connect_timeout_s=1.0)
    bare = ZooKeeper(
        [zookeeper], session_s=10, call_timeout_s=10, on_change=_nothing, on_watch=_nothing_at,
        access=Access(Paths(CHROOT, "forebay"), _digests(site)),
    )  # fmt: skip
    run = Run(site, http, bare)
    try:
        await bare.open()
        await run.leader()
        registry = f"http://{site.address('m0')},{site.address('m1')}"
        async with Client(ClientOptions(registry=registry, client_id="bench"), quiet()) as client:
            await until(lambda: _reads(client))
            reading = asyncio.ensure_future(read_on(client, load))
            try:
                found = [await run.failover(number) for number in range(count)]
                assert not reading.done(), reading
            finally:
                reading.cancel()
                await asyncio.wait([reading])
        return found, load
    finally:
        await bare.close()
        await http.close()


async def _reads(client: Client) -> bool:
    """Whether a worker is there: the first byte of every file, so that all of them are cached."""
    for number in range(FILES):
        reader = await client.open(f"/d/{number}")
        try:
            await reader.read(0, FILE_BYTES)
        finally:
            await reader.close()
    return True


def _digests(site: Site) -> tuple[tuple[str, str], ...]:
    from forebay.contracts.tickets import parse_key_file
    from forebay.discovery.access import access

    ring = parse_key_file((site.folder / "key").read_text(), setting="key")
    return access(Paths(CHROOT, "forebay"), ring).digests


def _nothing() -> None: ...


def _nothing_at(path: str) -> None: ...


@cache
def measured(quick: bool) -> tuple[list[dict[str, Any]], Load]:
    """The rounds, once for both figures."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="forebay-bench-", dir="/dev/shm"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(ZooKeeperServer())
        site = Site(folder, server.address)
        stack.callback(site.close)
        for name in ("m0", "m1", "worker"):
            site.start(name)
        found, load = asyncio.run(rounds(site, server.address, QUICK_ROUNDS if quick else ROUNDS))
    say(f"failover: {found}, {load.reads} reads, {len(load.errors)} errors")
    return found, load


def _detail(quick: bool) -> dict[str, Any]:
    found, load = measured(quick)
    return {
        "rounds": found, "session_s": SESSION_S, "reads": load.reads, "slowest_read_s": round(load.slowest_s, 3),
        "errors": load.errors[:10], "environment": environment(),
    }  # fmt: skip


def failover_s(options: Options) -> Figure:
    """The worst round, from the end of the session."""
    found, _ = measured(options.quick)
    worst = max(each["failover_s"] for each in found)
    return Figure("metadata", "failover_s", worst, "s", GOAL_S, lower_is_better=True, detail=_detail(options.quick))


def failover_read_errors(options: Options) -> Figure:
    """Reads that failed, of all rounds."""
    _, load = measured(options.quick)
    return Figure(
        "metadata", "failover_read_errors", len(load.errors), "reads", 0, lower_is_better=True,
        detail=_detail(options.quick),
    )  # fmt: skip


FIGURES = {"failover_s": failover_s, "failover_read_errors": failover_read_errors}
