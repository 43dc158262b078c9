"""ZooKeeper goes away and comes back under a running cluster: reads do not notice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forebay.client import Client
from forebay.contracts import ClusterMap
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.cluster import Cluster, eventually
from forebay.testing.zookeeper import ZooKeeperServer
from tests.integration.cluster.kit import MIB, digests, digests_of

pytestmark = [pytest.mark.slow, pytest.mark.fuse, pytest.mark.zookeeper]
ALL = {"master": "live", "worker-0": "live", "worker-1": "live"}


def states(cluster: Cluster) -> dict[str, str]:
    """The members as a new client finds them."""

    async def main() -> ClusterMap | None:
        async with Client(cluster.client_options(), quiet()) as client:
            return client.cluster_map

    found = run(main())
    return {member.member_id: member.state for member in found.members} if found else {}


def write(source: Path, name: str, objects: dict[str, bytes]) -> None:
    """A file of more than one extent."""
    objects[name] = os.urandom(5 * MIB)
    (source / name).write_bytes(objects[name])


def test_reads_go_on_from_the_last_map_and_the_members_are_back_afterwards(tmp_path: Path) -> None:
    objects: dict[str, bytes] = {}
    for name in ("warm", "cold"):
        write(tmp_path, name, objects)
    extra = {"master": ("--max-age-s", "1"), "gateway": ("--entry-timeout", "1")}
    with ZooKeeperServer() as zookeeper:
        registry = f"zookeeper://{zookeeper.address}/there/and/back"
        with Cluster.of_folder(tmp_path, mounts=1, workers=2, registry=registry, extra=extra) as cluster:
            assert states(cluster) == ALL
            assert (cluster.mount / "warm").read_bytes() == objects["warm"]
            # when ZooKeeper is killed
            zookeeper.stop(kill=True)
            eventually(lambda: cluster.metrics("gateway")["forebay_discovery_connected"] == 0, what="the loss")
            # then everything is read: what was cold, what is new, by the last map
            write(tmp_path, "new", objects)
            assert digests(cluster.mount) == digests_of(objects)
            # and when it is back, so are the members
            zookeeper.start()
            eventually(lambda: states(cluster) == ALL, what="all members", timeout_s=40)
            names = list(cluster.local.children)
            eventually(
                lambda: all(cluster.metrics(name)["forebay_discovery_connected"] == 1 for name in names),
                what="all connections",
                timeout_s=30,
            )
            assert all(cluster.status(name)["ready"] for name in names)
            # and the map follows what happens again
            assert cluster.local.children["worker-1"].stop(20.0)
            eventually(lambda: states(cluster)["worker-1"] == "down", what="the stopped worker", timeout_s=20)
            assert digests(cluster.mount) == digests_of(objects)
