"""Loads of several masters over a real ZooKeeper: one runs them, all show them, the next leader goes on."""

from __future__ import annotations

import http.client
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from forebay.cli.children import Child, wait_ready
from forebay.testing.cluster import Cluster, eventually
from forebay.testing.tools import free_ports
from forebay.testing.zookeeper import ZooKeeperServer

pytestmark = [pytest.mark.slow, pytest.mark.zookeeper]

MIB = 1 << 20
FILES = 40
SLOW = {"worker": ("--ufs-bytes-per-s", "4MiB"), "master": ("--session-s", "2", "--down-s", "60")}
Json = dict[str, Any]


def send(cluster: Cluster, name: str, method: str, path: str, body: Mapping[str, object] | None = None) -> Json:
    """A call to one master; the answer with its status."""
    connection = http.client.HTTPConnection("127.0.0.1", cluster.local.children[name].spec.port, timeout=60)
    try:
        connection.request(method, path, orjson.dumps(body) if body is not None else None)
        reply = connection.getresponse()
        return {"status": reply.status, **orjson.loads(reply.read())}
    finally:
        connection.close()


def add_master(cluster: Cluster, name: str) -> None:
    """A second master with the first one's settings."""
    first = cluster.local.children["master"].spec
    (port,) = free_ports(1)
    own = {"--port": str(port), "--member-id": name, "--state-dir": str(cluster.local.places.folder / name)}
    args = tuple(own.get(flag, value) for flag, value in zip(("", *first.args), first.args, strict=False))
    child = Child(replace(first, name=name, args=args, port=port), logs=cluster.local.places.logs, env=dict(os.environ))
    cluster.local.children[name] = child
    child.start()
    assert wait_ready([child], 60.0) is None, cluster.log(name)


def test_a_load_whose_leader_is_killed_is_brought_to_its_end_by_the_next_with_its_audit(tmp_path: Path) -> None:
    for number in range(FILES):
        (tmp_path / f"{number}.bin").write_bytes(os.urandom(MIB))
    with ZooKeeperServer() as zookeeper:
        registry = f"zookeeper://{zookeeper.address}/there"
        with Cluster.of_folder(tmp_path, workers=2, registry=registry, extra=SLOW) as cluster:
            add_master(cluster, "second")
            load = send(cluster, "master", "POST", "/v1/loads", {"path": "/", "verify": True})
            assert load["status"] == 201, load
            path = f"/v1/loads/{load['load_id']}"
            eventually(
                lambda: send(cluster, "master", "GET", path)["filled_bytes"] > 4 * MIB, what="bytes", timeout_s=60
            )

            # the other master shows it, and sends who wants to change something to the leader
            eventually(lambda: send(cluster, "second", "GET", path).get("state") == "filling", what="the other's view")
            leader = cluster.local.address("master")
            for method, where, body in (
                ("POST", "/v1/loads", {"path": "/"}),
                ("DELETE", path, None),
                ("GET", f"{path}?after=0&wait_s=1", None),
            ):
                refused = send(cluster, "second", method, where, body)
                assert (refused["status"], refused["code"]) == (421, "not_leader"), refused
                assert refused["details"]["leader"] == leader

            # when the leader is killed, the other brings the load to its end
            cluster.kill("master")
            eventually(
                lambda: send(cluster, "second", "GET", path)["state"] in ("succeeded", "failed"),
                what="the end of the load",
                timeout_s=110,
            )
            done = send(cluster, "second", "GET", path)
            assert (done["state"], done["attempts"], done["missing_blocks"]) == ("succeeded", 2, 0), done
            assert "every byte was compared with its checksum" in done["message"]
            held = [cluster.status(f"worker-{n}")["detail"]["blocks"]["sealed"] for n in range(2)]
            assert sum(held) == FILES

            # and the first one, started anew, shows what the second did
            cluster.restart("master")
            eventually(lambda: send(cluster, "master", "GET", path) == done, what="the first one's view")
            again = send(cluster, "second", "POST", "/v1/loads", {"path": "/"})
            ended = f"/v1/loads/{again['load_id']}"
            eventually(lambda: send(cluster, "master", "GET", ended).get("state") == "succeeded", what="another load")
