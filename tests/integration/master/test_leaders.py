"""Masters that die, are paused, or lose ZooKeeper: another leads, everybody answers, nobody changes what is not his."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from forebay.contracts import ClusterMap
from forebay.testing import run
from forebay.testing.faults import FaultProxy, Faults
from forebay.testing.zookeeper import ZooKeeperEnsemble, ZooKeeperServer
from tests.integration.master.leaders import SESSION_S, Masters, eventually, masters

pytestmark = [pytest.mark.slow, pytest.mark.zookeeper]
TAKES_OVER_S = 10.0
"""From the end of the old leader's session until a change is made."""

LATE_S = 2 * SESSION_S
"""Sessions end by the servers' tick, and new ones are noticed by another."""


def url(address: str) -> str:
    return f"zookeeper://{address}/there"


def test_a_killed_leader_is_followed_by_another_while_one_of_three_servers_is_dead(tmp_path: Path) -> None:
    async def main(ensemble: ZooKeeperEnsemble) -> None:
        names = ("m1", "m2", "m3")
        async with masters(tmp_path, dict.fromkeys(names, url(ensemble.address))) as m:
            first = await m.leader(names)
            others = [name for name in names if name != first]
            await m.mount(first, "/before")
            await m.all_see(names, "/before")
            await m.refuses(others[0], "/refused", first)
            # when a server and then the leader are killed
            await asyncio.to_thread(ensemble.servers[0].stop, kill=True)
            m.signal(first, signal.SIGKILL)
            # then the others answer at once, and one of them soon makes changes
            await m.all_see(others, "/before")
            took_s = await m.mount_soon(others, "/after")
            assert took_s < LATE_S + TAKES_OVER_S
            second = await m.leader(others)
            await m.all_see(others, "/after")
            # and the map shows the dead one as down, not as out
            cluster_map = await m.ask(second, "/v1/cluster", None, ClusterMap)
            assert {member.member_id: member.state for member in cluster_map.members}.keys() == set(names)
            assert await m.paths(others[1]) == {"/given", "/before", "/after"}

    with ZooKeeperEnsemble() as ensemble:
        run(main(ensemble), watchdog_s=110.0)


def test_a_leader_paused_for_longer_than_its_session_changes_nothing_when_it_wakes_up(tmp_path: Path) -> None:
    async def main(server: ZooKeeperServer) -> None:
        names = ("m1", "m2")
        async with masters(tmp_path, dict.fromkeys(names, url(server.address))) as m:
            first = await m.leader(names)
            second = next(name for name in names if name != first)
            before = (await m.says(second))["leader_epoch"]
            # when it is stopped, and a change is on its way to it
            m.signal(first, signal.SIGSTOP)
            waiting = asyncio.ensure_future(m.mount(first, "/late"))
            assert await m.mount_soon([second], "/new") < LATE_S + TAKES_OVER_S
            assert (await m.says(second))["leader_epoch"] == before + 1
            # then what it does on waking is refused, and it follows
            m.signal(first, signal.SIGCONT)
            await asyncio.gather(waiting, return_exceptions=True)
            assert waiting.exception() is not None, "the paused leader made a change"
            await m.all_see(names, "/new")
            assert await m.leader(names) == second
            assert await m.paths(second) == await m.paths(first) == {"/given", "/new"}

    with ZooKeeperServer() as server:
        run(main(server), watchdog_s=110.0)


def test_a_leader_cut_off_from_zookeeper_answers_on_and_another_makes_the_changes(tmp_path: Path) -> None:
    async def main(server: ZooKeeperServer, proxy: FaultProxy) -> None:
        async with masters(tmp_path, {"m1": url(proxy.address), "m2": url(server.address)}) as m:
            await m.mount_soon(["m1", "m2"], "/before")
            assert await m.leader(["m1", "m2"]) == "m1"
            await m.all_see(["m1", "m2"], "/before")
            # when nothing passes between it and ZooKeeper
            proxy.faults = Faults(stalled=True)
            assert await m.mount_soon(["m2"], "/new") < LATE_S + TAKES_OVER_S
            # then it serves what it knows, and says after its own timer that it does not lead
            assert await m.paths("m1") == {"/given", "/before"}
            await eventually(lambda: _leads_not(m, "m1"))
            with pytest.raises(Exception, match="lead"):
                await m.mount("m1", "/not-mine")
            # and when it is back it follows
            proxy.faults = Faults()
            await m.all_see(["m1", "m2"], "/new")
            assert await m.leader(["m1", "m2"]) == "m2"

    with ZooKeeperServer() as server, FaultProxy(server.address) as proxy:
        run(main(server, proxy), watchdog_s=110.0)


async def _leads_not(m: Masters, name: str) -> bool:
    return not (await m.says(name))["leading"]


def test_without_zookeeper_everything_is_answered_nobody_is_out_and_all_heals(tmp_path: Path) -> None:
    async def main(server: ZooKeeperServer) -> None:
        names = ("m1", "m2")
        async with masters(tmp_path, dict.fromkeys(names, url(server.address))) as m:
            first = await m.leader(names)
            await m.mount(first, "/before")
            await m.all_see(names, "/before")
            whole = await m.ask("m2", "/v1/cluster", None, ClusterMap)
            # when ZooKeeper is away for longer than a session
            await asyncio.to_thread(server.stop, kill=True)
            await eventually(lambda: _leads_not(m, first))
            # then lookups, tables and the map are answered from what was last good, and changes are refused
            await m.all_see(names, "/before")
            for name in names:
                assert await m.ask(name, "/v1/cluster", None, ClusterMap) == whole
                with pytest.raises(Exception, match="lead"):
                    await m.mount(name, "/not-now")
            # and when it is back a leader makes changes again; nobody was thrown out
            await asyncio.to_thread(server.start)
            await m.mount_soon(names, "/after")
            await m.all_see(names, "/after")
            found = await m.ask("m2", "/v1/cluster", None, ClusterMap)
            assert {member.member_id for member in found.members} == set(names)

    with ZooKeeperServer() as server:
        run(main(server), watchdog_s=110.0)
