"""ZooKeeper at its worst: frozen, killed, emptied, full of garbage; and several map writers at once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from forebay.contracts import ClusterMap, Member, decode, encode
from forebay.discovery import Registry
from forebay.discovery.access import Access
from forebay.discovery.maps import EPOCHS_KEPT
from forebay.discovery.znodes import Paths
from forebay.discovery.zookeeper import ZNODE_BYTES_MAX, Create, Delete, Set, ZooKeeper
from forebay.discovery.zookeeper_election import ZooKeeperElection
from forebay.discovery.zookeeper_maps import ZooKeeperMapWriter
from forebay.discovery.zookeeper_registry import ZooKeeperRegistry
from forebay.errors import Conflict, DeadlineExceeded, InvalidRequest, PeerUnavailable
from forebay.runtime import Deadline
from forebay.telemetry import Telemetry, quiet
from forebay.testing import run
from forebay.testing.zookeeper import ZooKeeperServer
from tests.contract.discovery.harness import CLUSTER, eventually, has, lacks, seen, worker
from tests.contract.discovery.harness import OPTIONS as CONTRACT_OPTIONS

OPTIONS = dataclasses.replace(CONTRACT_OPTIONS, announce_timeout_s=20.0)

pytestmark = [pytest.mark.zookeeper, pytest.mark.slow]


@pytest.fixture
def own_server() -> Iterator[ZooKeeperServer]:
    """One that the test may mistreat."""
    with ZooKeeperServer() as server:
        yield server


class Lab:
    """One cluster on a server: registries and writers that are closed in the end, and a bare connection."""

    def __init__(self, server: ZooKeeperServer, stack: contextlib.AsyncExitStack) -> None:
        self._server, self._stack = server, stack
        self.chroot = f"/lab-{uuid.uuid4().hex}"
        self.paths = Paths(self.chroot, CLUSTER)

    async def registry(self, telemetry: Telemetry | None = None) -> ZooKeeperRegistry:
        registry = ZooKeeperRegistry(
            [self._server.address],
            self.chroot,
            cluster_id=CLUSTER,
            telemetry=telemetry or quiet(),
            options=OPTIONS,
        )
        self._stack.push_async_callback(registry.close)
        await registry.start(Deadline.after(10))
        return registry

    def election(self, name: str = "master") -> ZooKeeperElection:
        election = ZooKeeperElection(
            [self._server.address], self.chroot, cluster_id=CLUSTER, candidate=worker(name), telemetry=quiet(),
            tables=("mounts",), options=OPTIONS,
        )  # fmt: skip
        self._stack.push_async_callback(election.close)
        election.start()
        return election

    def writer(self, *, down_s: float = 600.0, telemetry: Telemetry | None = None) -> asyncio.Task[None]:
        election = self.election()
        writer = ZooKeeperMapWriter(
            [self._server.address],
            self.chroot,
            cluster_id=CLUSTER,
            telemetry=telemetry or quiet(),
            election=election,
            down_s=down_s,
            options=OPTIONS,
        )

        async def life() -> None:
            try:
                await writer.run()
            finally:
                await election.close()

        task = asyncio.create_task(life())
        self._stack.push_async_callback(ended, task)
        return task

    async def bare(self) -> ZooKeeper:
        bare = ZooKeeper(
            [self._server.address], session_s=3, call_timeout_s=12, on_change=nothing, on_watch=nothing_at,
            access=Access(self.paths),
        )  # fmt: skip
        self._stack.push_async_callback(bare.close)
        await bare.open()
        await bare.wait_connected()
        for path in (self.paths.members, self.paths.withdrawn, self.paths.maps):
            await bare.ensure(path)
        return bare


def nothing() -> None: ...


def nothing_at(path: str) -> None: ...


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


@contextlib.asynccontextmanager
async def lab_on(server: ZooKeeperServer) -> AsyncIterator[Lab]:
    before = threads()
    async with contextlib.AsyncExitStack() as stack:
        yield Lab(server, stack)
    assert threads() <= before, threads() - before


def threads() -> set[str]:
    """All threads but those of the event loop's own pool, which end with the loop."""
    return {f"{t.name} {t.ident}" for t in threading.enumerate() if not t.name.startswith(("asyncio", "uvloop"))}


def test_sessions_survive_a_server_that_freezes_for_a_moment(own_server: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(own_server) as lab:
            lab.writer()
            one, other = await lab.registry(), await lab.registry()
            await one.announce(worker("w1"))
            before = await seen(other, has("w1"))
            own_server.pause()
            await asyncio.sleep(0.3)
            own_server.resume()
            await one.announce(worker("w1", uds="/x"))
            assert (await seen(other, has("w1", uds="/x"))).revision == before.revision + 1

    run(main())


def test_a_server_frozen_for_longer_than_a_session_gets_its_members_back(own_server: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(own_server) as lab:
            lab.writer()
            one, other = await lab.registry(), await lab.registry()
            await one.announce(worker("w1"))
            before = await seen(other, has("w1", state="live"))
            await seen(one, has("w1", state="live"))

            own_server.pause()
            # Our own lease timer says it: the server cannot.
            await eventually(lambda: not one.is_announced())
            assert one.current() == other.current() == before
            await asyncio.sleep(OPTIONS.ttl_s)
            own_server.resume()

            await eventually(one.is_announced, within_s=15)
            await one.announce(worker("w1", uds="/back"))
            back = await seen(other, has("w1", state="live", uds="/back"), within_s=15)
            assert back.epoch == before.epoch

    run(main())


@pytest.mark.parametrize("kill", [True, False])
def test_a_server_that_restarts_costs_nothing_but_news(own_server: ZooKeeperServer, kill: bool) -> None:
    async def main() -> None:
        async with lab_on(own_server) as lab:
            lab.writer()
            one, other = await lab.registry(), await lab.registry()
            await one.announce(worker("w1"))
            before = await seen(other, has("w1", state="live"))
            for turn in range(2):
                await asyncio.to_thread(own_server.stop, kill=kill)
                assert other.current() is not None
                await asyncio.to_thread(own_server.start)
                await one.announce(worker("w1", uds=f"/{turn}"))
                back = await seen(other, has("w1", state="live", uds=f"/{turn}"), within_s=15)
                assert back.epoch == before.epoch

    run(main())


def test_an_ensemble_that_lost_everything_is_filled_again_and_no_epoch_falls(own_server: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(own_server) as lab:
            lab.writer()
            one, other = await lab.registry(), await lab.registry()
            await one.announce(worker("w1"))
            before = await seen(other, has("w1", state="live"))

            await asyncio.to_thread(own_server.stop, kill=True)
            await asyncio.to_thread(forget_everything, own_server)
            await asyncio.to_thread(own_server.start)

            await one.announce(worker("w1", uds="/anew"))
            after = await seen(other, has("w1", state="live", uds="/anew"), within_s=20)
            assert after.epoch > before.epoch
            assert after.revision > before.revision

    run(main(), watchdog_s=60)


def forget_everything(server: ZooKeeperServer) -> None:
    for folder in Path(server._folder.name).glob("version-*"):
        shutil.rmtree(folder)


def test_several_writers_agree_and_the_last_one_goes_on(own_server: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(own_server) as lab:
            writers = [lab.writer(down_s=0.5) for _ in range(3)]
            registries = [await lab.registry() for _ in range(4)]
            start = await seen(registries[0], lambda _: True)
            for n, registry in enumerate(registries):
                await registry.announce(worker(f"w{n}", 7000 + n))
            full = await seen(registries[0], lambda m: len(m.members) == 4)
            assert full.revision <= start.revision + 4, "three writers make no more maps than one"

            for task in writers[:2]:
                await ended(task)
            await registries[3].close()
            out = await seen(registries[0], lacks("w3"))
            assert out.epoch == full.epoch + 1

    run(main())


def test_without_a_writer_the_last_map_stands_and_the_next_writer_goes_on(own_server: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(own_server) as lab:
            first = lab.writer()
            one, other = await lab.registry(), await lab.registry()
            await one.announce(worker("w1"))
            before = await seen(other, has("w1"))
            await ended(first)

            await other.announce(worker("w2", 7002))
            assert await other.changed(before.revision, 0.5) is None

            lab.writer()
            after = await seen(one, has("w2"))
            assert after.epoch == before.epoch + 1
            assert after.revision == before.revision + 1

    run(main())


def test_garbage_among_the_members_harms_nobody_else(zookeeper: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(zookeeper) as lab:
            bare = await lab.bare()
            await bare.create(f"{lab.paths.members}/noise", b"\xff\x00", ephemeral=True)
            await bare.create(f"{lab.paths.members}/liar", encode(worker("w1")), ephemeral=True)
            await bare.create(f"{lab.paths.members}/old", encode(worker("old", wire_version=0)), ephemeral=True)
            await bare.create(f"{lab.paths.members}/big", b"x" * 100_000, ephemeral=True)
            lab.writer()
            one = await lab.registry()
            await one.announce(worker("w1"))
            cluster_map = await seen(one, has("w1"))
            assert [m.member_id for m in cluster_map.members] == ["w1"]
            # A znode that is put right is taken.
            node = await bare.get(f"{lab.paths.members}/noise")
            assert node is not None
            await bare.set(f"{lab.paths.members}/noise", encode(worker("noise", 7003)), node.version)
            await seen(one, has("noise"))

    run(main())


def test_a_map_that_is_none_is_never_overwritten_and_members_stay_announced(zookeeper: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(zookeeper) as lab:
            bare = await lab.bare()
            await bare.create(lab.paths.map, b"precious")
            lab.writer()
            registry = ZooKeeperRegistry(
                [zookeeper.address], lab.chroot, cluster_id=CLUSTER, telemetry=quiet(), options=OPTIONS
            )
            with pytest.raises(PeerUnavailable):
                await registry.start(Deadline.after(0.7))
            await registry.announce(worker("w1"))
            await registry.close()
            node = await bare.get(lab.paths.map)
            assert node is not None
            assert node.data == b"precious"

    run(main())


def test_the_last_maps_are_kept_one_an_epoch(zookeeper: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(zookeeper) as lab:
            lab.writer()
            bare, one = await lab.bare(), await lab.registry()
            for step in range(EPOCHS_KEPT + 4):
                await one.announce(worker("w1", capacity_weight=1.0 + step))
                await seen(one, has("w1", capacity_weight=1.0 + step))
            current = one.current()
            assert current is not None

            async def kept() -> list[str]:
                return await bare.children(lab.paths.maps)

            deadline = Deadline.after(5)
            while len(await kept()) != EPOCHS_KEPT - 1:
                assert not deadline.expired, await kept()
                await asyncio.sleep(0.02)
            maps: list[ClusterMap] = []
            for name in await kept():
                node = await bare.get(f"{lab.paths.maps}/{name}")
                assert node is not None
                maps.append(decode(ClusterMap, node.data))
            assert [m.epoch for m in maps] == list(range(current.epoch - EPOCHS_KEPT + 1, current.epoch))

    run(main())


def test_serving_weights_are_written_no_more_often_than_the_period(zookeeper: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(zookeeper) as lab:
            bare, one = await lab.bare(), await lab.registry()
            await one.announce(worker("w1"))
            loop = asyncio.get_running_loop()
            began_s, swings = loop.time(), 0
            while loop.time() - began_s < 3 * OPTIONS.serving_period_s:
                await one.announce(worker("w1", serving_weight=(swings % 100) / 100))
                swings += 1
                await asyncio.sleep(0.005)
            elapsed_s = loop.time() - began_s
            node = await bare.get(lab.paths.member("w1"))
            assert node is not None
            assert 1 <= node.version <= elapsed_s / OPTIONS.serving_period_s + 1
            assert swings > 50

    run(main())


def test_many_members_at_once_make_few_maps(zookeeper: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(zookeeper) as lab:
            bare, watcher = await lab.bare(), await lab.registry()
            lab.writer()
            start = await seen(watcher, lambda _: True)
            names = [f"w{n:03}" for n in range(150)]
            await asyncio.gather(*(bare.create(lab.paths.member(n), encode(worker(n)), ephemeral=True) for n in names))
            full = await seen(watcher, lambda m: len(m.members) == len(names))
            assert full.revision - start.revision < 20

    run(main())


def test_what_zookeeper_would_drop_the_connection_for_is_refused_before(zookeeper: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(zookeeper) as lab:
            bare = await lab.bare()
            connections = bare.connections
            with pytest.raises(InvalidRequest):
                await bare.create(f"{lab.paths.base}/big", b"x" * (ZNODE_BYTES_MAX + 1))
            half = b"x" * (ZNODE_BYTES_MAX // 2 + 1)
            with pytest.raises(InvalidRequest):
                await bare.commit(Create(f"{lab.paths.base}/a", half), Create(f"{lab.paths.base}/b", half))
            assert await bare.create(f"{lab.paths.base}/fits", b"x" * ZNODE_BYTES_MAX)
            assert bare.connections == connections

    run(main())


def test_the_door_speaks_only_our_errors(own_server: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(own_server) as lab:
            bare = await lab.bare()
            path = f"{lab.paths.base}/node"
            assert await bare.get(path) is None
            assert await bare.create(path, b"1")
            assert not await bare.create(path, b"2")
            node = await bare.get(path)
            assert node is not None
            assert (node.data, node.version, node.owner) == (b"1", 0, 0)
            with pytest.raises(Conflict):
                await bare.set(path, b"3", 7)
            with pytest.raises(Conflict):
                await bare.set(f"{path}-none", b"3", 0)
            with pytest.raises(Conflict):
                await bare.commit(Set(path, b"4", 0), Delete(f"{path}-none"))
            unchanged = await bare.get(path)
            assert unchanged == node, "a transaction is all or nothing"
            assert not await bare.delete(path, 9)
            assert await bare.delete(path, 0)
            assert not await bare.delete(path)
            with pytest.raises(PeerUnavailable):
                await bare.children(f"{path}-none")
            with pytest.raises(PeerUnavailable):
                await bare.create(f"{path}-none/child", b"")

            own_server.pause()
            try:
                with pytest.raises((DeadlineExceeded, PeerUnavailable)):
                    await bare.get(path)
            finally:
                own_server.resume()
            await bare.close()
            with pytest.raises(PeerUnavailable):
                await bare.get(path)

    run(main())


def test_a_closed_registry_leaves_no_thread_even_when_nobody_answers() -> None:
    async def main() -> None:
        before = threads()
        registry = ZooKeeperRegistry(["127.0.0.1:1"], "", cluster_id=CLUSTER, telemetry=quiet(), options=OPTIONS)
        with pytest.raises(PeerUnavailable, match=r"127\.0\.0\.1:1"):
            await registry.start(Deadline.after(0.3))
        await registry.close()
        assert threads() <= before, threads() - before

    run(main())


def test_a_start_goes_on_trying_until_the_server_is_there(own_server: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(own_server) as lab:
            await asyncio.to_thread(own_server.stop)
            starting = asyncio.create_task(lab.registry())
            await asyncio.sleep(0.5)
            assert not starting.done()
            await asyncio.to_thread(own_server.start)
            registry: Registry = await starting
            await registry.announce(Member(member_id="m", role="master", tcp="h:1"))

    run(main())


def test_an_operator_who_removes_a_members_znode_gets_it_back(zookeeper: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(zookeeper) as lab:
            lab.writer()
            bare, one = await lab.bare(), await lab.registry()
            await one.announce(worker("w1"))
            await seen(one, has("w1", state="live"))
            assert await bare.delete(lab.paths.member("w1"))
            deadline = Deadline.after(5)
            while await bare.get(lab.paths.member("w1")) is None:
                assert not deadline.expired
                await asyncio.sleep(0.02)
            await seen(one, has("w1", state="live"))

    run(main())


def test_a_member_id_with_any_characters_works(zookeeper: ZooKeeperServer) -> None:
    async def main() -> None:
        async with lab_on(zookeeper) as lab:
            lab.writer()
            one = await lab.registry()
            name = "rack 7/wörker%2F..\x01"
            await one.announce(msgspec.structs.replace(worker("x"), member_id=name))
            await seen(one, has(name, state="live"))
            await one.withdraw()
            await seen(one, lacks(name))

    run(main())
