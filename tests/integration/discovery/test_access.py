"""Access lists on a real ZooKeeper: the key opens, everybody else reads the map, and keys rotate."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack

import pytest

from forebay.contracts.tickets import KeyRing
from forebay.discovery.access import access
from forebay.discovery.znodes import Paths
from forebay.discovery.zookeeper import ZooKeeper
from forebay.discovery.zookeeper_election import ZooKeeperElection
from forebay.errors import PermissionDenied
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.zookeeper import ZooKeeperServer
from tests.contract.discovery.harness import CLUSTER, OPTIONS, eventually, worker

pytestmark = pytest.mark.zookeeper
OLD, NEW = ("k1", b"0123456789abcdef"), ("k2", b"fedcba9876543210")


class Lab:
    def __init__(self, server: ZooKeeperServer, stack: AsyncExitStack) -> None:
        self.address, self.stack = server.address, stack
        self.chroot = f"/test-{uuid.uuid4().hex}"
        self.paths = Paths(self.chroot, CLUSTER)

    async def leader(self, *keys: tuple[str, bytes]) -> ZooKeeperElection:
        election = ZooKeeperElection(
            [self.address], self.chroot, cluster_id=CLUSTER, candidate=worker("m"), telemetry=quiet(),
            keys=KeyRing(keys), tables=("mounts",), options=OPTIONS,
        )  # fmt: skip
        self.stack.push_async_callback(election.close)
        election.start()
        await eventually(lambda: election.is_leading() and election.ledger.table("mounts") is not None)
        return election

    async def bare(self, *keys: tuple[str, bytes]) -> ZooKeeper:
        bare = ZooKeeper(
            [self.address], session_s=3, call_timeout_s=5, on_change=_nothing, on_watch=_nothing_at,
            access=access(self.paths, KeyRing(keys) if keys else None),
        )  # fmt: skip
        self.stack.push_async_callback(bare.close)
        await bare.open()
        await bare.wait_connected()
        return bare


def _nothing() -> None: ...


def _nothing_at(path: str) -> None: ...


def test_without_the_key_nothing_is_changed_and_what_leads_is_not_read(zookeeper: ZooKeeperServer) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            lab = Lab(zookeeper, stack)
            election = await lab.leader(OLD)
            table = election.ledger.table("mounts")
            assert table is not None
            await election.ledger.commit("mounts", {"a": b"1"}, after=table.revision)
            holder, stranger = await lab.bare(OLD), await lab.bare()
            await holder.create(lab.paths.map, b"map")

            for path in (lab.paths.leader, lab.paths.table("mounts"), lab.paths.record("mounts", "a")):
                with pytest.raises(PermissionDenied):
                    await stranger.get(path)
            with pytest.raises(PermissionDenied):
                await stranger.set(lab.paths.map, b"forged", -1)
            with pytest.raises(PermissionDenied):
                await stranger.create(f"{lab.paths.candidates}/forged-0000000000", b"")
            found = await stranger.get(lab.paths.map)
            assert found is not None
            assert found.data == b"map"

    run(main())


async def opens(client: ZooKeeper, *paths: str) -> bool:
    """Whether a client may read all of them."""
    try:
        for path in paths:
            await client.get(path)
    except PermissionDenied:
        return False
    return True


def test_keys_rotate_and_the_old_one_opens_nothing_in_the_end(zookeeper: ZooKeeperServer) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            lab = Lab(zookeeper, stack)
            await (await lab.leader(OLD)).close()
            both, new = await lab.leader(OLD, NEW), await lab.bare(NEW)
            async with asyncio.timeout(10):  # its term begins with the lists
                while not await opens(new, lab.paths.leader, lab.paths.table("mounts"), lab.paths.candidates):
                    await asyncio.sleep(0.05)
            await both.close()
            only_new = await lab.leader(NEW)
            assert only_new.is_leading()
            old = await lab.bare(OLD)

            async with asyncio.timeout(10):
                while True:  # the new list is set at the beginning of the term
                    try:
                        await old.get(lab.paths.leader)
                    except PermissionDenied:
                        break
                    await asyncio.sleep(0.05)

    run(main())
