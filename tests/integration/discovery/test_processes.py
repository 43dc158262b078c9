"""Real member processes that are killed, frozen and restarted, on the embedded registry and on ZooKeeper."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from forebay.discovery import Registry
from forebay.testing import run
from forebay.testing.tools import Process
from forebay.testing.zookeeper import ZooKeeperServer
from tests.contract.discovery.harness import EmbeddedHarness, Harness, ZooKeeperHarness, has, lacks, opened, seen

ROOT = Path(__file__).resolve().parents[3]
KINDS = ["embedded", pytest.param("zookeeper", marks=[pytest.mark.zookeeper])]
DOWN_S = 600.0

pytestmark = pytest.mark.slow


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> ZooKeeperServer | None:
    found: ZooKeeperServer | None = request.getfixturevalue("zookeeper") if kind == "zookeeper" else None
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Harness, str, str], Process]]:
    """Starts member processes; none is left at the end."""
    with contextlib.ExitStack() as stack:

        def begin(harness: Harness, member_id: str, address: str) -> Process:
            url = harness.url if isinstance(harness, ZooKeeperHarness) else f"http://{harness.address}"
            command = [sys.executable, "-m", "tests.integration.discovery.member", url, member_id, address]
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = Process(command, folder=tmp_path, env=env)
            stack.callback(process.stop, kill=True)
            return process

        yield begin


Start = Callable[[Harness, str, str], Process]
Body = Callable[[Harness, Registry], Awaitable[None]]


def on(kind: str, server: ZooKeeperServer | None, body: Body, *, down_s: float = DOWN_S) -> None:
    async def main() -> None:
        async with opened(kind, down_s=down_s, zookeeper=server) as harness:
            assert isinstance(harness, EmbeddedHarness | ZooKeeperHarness)
            await body(harness, await harness.registry())

    run(main(), watchdog_s=60)


def test_a_killed_member_is_down_and_its_successor_takes_its_place(
    kind: str, server: ZooKeeperServer | None, start: Start
) -> None:
    async def body(harness: Harness, watcher: Registry) -> None:
        first = start(harness, "w1", "h:1")
        before = await seen(watcher, has("w1", state="live"))

        first.stop(kill=True)
        down = await seen(watcher, has("w1", state="down"))
        start(harness, "w1", "h:2")
        back = await seen(watcher, has("w1", state="live", tcp="h:2"))

        assert down.epoch == before.epoch == back.epoch

    on(kind, server, body)


def test_a_successor_at_the_same_address_need_not_wait_for_the_lease(
    kind: str, server: ZooKeeperServer | None, start: Start
) -> None:
    async def body(harness: Harness, watcher: Registry) -> None:
        first = start(harness, "w1", "h:1")
        await seen(watcher, has("w1", version=str(first.pid)))
        first.stop(kill=True)
        second = start(harness, "w1", "h:1")
        await seen(watcher, has("w1", state="live", version=str(second.pid)))
        assert second.running

    on(kind, server, body)


def test_a_killed_member_is_out_in_the_end(kind: str, server: ZooKeeperServer | None, start: Start) -> None:
    async def body(harness: Harness, watcher: Registry) -> None:
        process = start(harness, "w1", "h:1")
        before = await seen(watcher, has("w1", state="live"))
        process.stop(kill=True)
        assert (await seen(watcher, lacks("w1"))).epoch > before.epoch

    on(kind, server, body, down_s=0.5)


def test_a_stopped_member_is_down_at_once(kind: str, server: ZooKeeperServer | None, start: Start) -> None:
    async def body(harness: Harness, watcher: Registry) -> None:
        process = start(harness, "w1", "h:1")
        await seen(watcher, has("w1", state="live"))
        await asyncio.to_thread(process.stop)
        await seen(watcher, has("w1", state="down"), within_s=1.0)

    on(kind, server, body)


def test_a_frozen_member_is_down_and_live_again_when_it_thaws(
    kind: str, server: ZooKeeperServer | None, start: Start
) -> None:
    async def body(harness: Harness, watcher: Registry) -> None:
        process = start(harness, "w1", "h:1")
        before = await seen(watcher, has("w1", state="live"))

        process.signal(signal.SIGSTOP)
        await seen(watcher, has("w1", state="down"))
        process.signal(signal.SIGCONT)
        back = await seen(watcher, has("w1", state="live"))

        assert back.epoch == before.epoch
        assert process.running

    on(kind, server, body)


def test_a_frozen_member_whose_id_was_taken_does_not_take_it_back(
    kind: str, server: ZooKeeperServer | None, start: Start
) -> None:
    async def body(harness: Harness, watcher: Registry) -> None:
        frozen = start(harness, "w1", "h:1")
        await seen(watcher, has("w1", state="live"))
        frozen.signal(signal.SIGSTOP)
        await seen(watcher, has("w1", state="down"))
        start(harness, "w1", "h:2")
        await seen(watcher, has("w1", state="live", tcp="h:2"))

        frozen.signal(signal.SIGCONT)
        await asyncio.sleep(2.0)  # more than its lease: time enough for a fight

        assert has("w1", state="live", tcp="h:2")(await seen(watcher, has("w1")))

    on(kind, server, body)
