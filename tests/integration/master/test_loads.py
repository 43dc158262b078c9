"""Loads against workers that run: what is said before, what is true afterwards, and what survives."""

from __future__ import annotations

import http.client
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from forebay.cli.children import get
from forebay.cli.cluster import ClusterSpec
from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.slow]

MIB = 1 << 20
Json = dict[str, Any]


def folder_of(tmp_path: Path, files: int, size: int) -> Path:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    for number in range(files):
        (folder / ("deep" if number % 2 else ".") / f"{number}.bin").write_bytes(os.urandom(size))
    (folder / "empty").touch()
    return folder


class Master:
    """The loads of a cluster, by plain HTTP/1.1 as curl speaks it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[int, Json]:
        port = self._cluster.local.children["master"].spec.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request(method, path, orjson.dumps(body) if body is not None else None)
            reply = connection.getresponse()
            return reply.status, orjson.loads(reply.read())
        finally:
            connection.close()

    def begin(self, **request: object) -> str:
        status, load = self.send("POST", "/v1/loads", {"path": "/", **request})
        assert status == 201, load
        name: str = load["load_id"]
        return name

    def get(self, name: str) -> Json:
        return self.send("GET", f"/v1/loads/{name}")[1]

    def over(self, name: str, timeout_s: float = 90) -> Json:
        self.wait(name, lambda load: load["state"] in ("planned", "succeeded", "failed", "cancelled"), timeout_s)
        return self.get(name)

    def wait(self, name: str, wanted: Callable[[Json], bool], timeout_s: float = 90) -> None:
        eventually(lambda: wanted(self.get(name)), what=f"the load to get on: {self.get(name)}", timeout_s=timeout_s)


def ufs_bytes(cluster: Cluster, workers: int) -> float:
    samples = [cluster.metrics(f"worker-{n}") for n in range(workers)]
    return sum(s.get('forebay_worker_filled_bytes_total{source="ufs"}', 0.0) for s in samples)


def test_a_load_succeeds_when_the_workers_hold_everything_and_reads_then_need_no_source(tmp_path: Path) -> None:
    source = folder_of(tmp_path, 12, MIB)
    with Cluster.of_folder(source, workers=2) as cluster:
        master = Master(cluster)

        dry = master.over(master.begin(dry_run=True))
        done = master.over(master.begin(verify=True))
        again = master.over(master.begin())

        assert dry["state"] == "planned"
        assert dry["plan"]["files"] == 12
        assert dry["plan"]["bytes"] == 12 * MIB
        assert (done["state"], done["missing_blocks"], done["filled_bytes"]) == ("succeeded", 0, 12 * MIB)
        assert {s["member_id"] for s in done["plan"]["shares"]} == {"worker-0", "worker-1"}
        assert again["state"] == "succeeded"
        assert again["filled_bytes"] == 0
        assert sum(s["held_bytes"] for s in again["plan"]["shares"]) == 12 * MIB
        assert ufs_bytes(cluster, 2) == 12 * MIB
        assert cluster.status("worker-0")["detail"]["blocks"]["sealed"] > 0


def test_copies_lie_on_as_many_workers_as_were_asked_for(tmp_path: Path) -> None:
    source = folder_of(tmp_path, 4, MIB)
    with Cluster.of_folder(source, workers=2) as cluster:
        master = Master(cluster)

        done = master.over(master.begin(replicas=2))

        assert done["state"] == "succeeded"
        assert [s["blocks"] for s in done["plan"]["shares"]] == [4, 4]
        assert [cluster.status(f"worker-{n}")["detail"]["blocks"]["sealed"] for n in range(2)] == [4, 4]


def test_what_will_not_fit_is_said_before_anything_is_filled_and_a_partial_load_names_what_is_missing(
    tmp_path: Path,
) -> None:
    source = folder_of(tmp_path, 20, MIB)
    with Cluster.of_folder(source, workers=1, worker_mem_bytes=8 * MIB) as cluster:
        master = Master(cluster)

        refused = master.over(master.begin())
        filled_before = ufs_bytes(cluster, 1)
        partial = master.over(master.begin(partial=True))

        assert refused["state"] == "failed"
        assert "will not fit" in refused["message"]
        assert "MEM 8.0 MiB" in refused["message"]
        assert filled_before == 0
        assert partial["state"] == "failed"
        assert partial["missing_blocks"] == len(partial["missing"]) >= 12
        assert "no room" in partial["missing"][0]["reason"]
        assert partial["missing"][0]["path"].endswith(".bin")


def test_a_load_outlives_a_worker_and_a_master_that_are_killed_in_the_middle(tmp_path: Path) -> None:
    source = folder_of(tmp_path, 40, MIB)
    slow = {"worker": ("--ufs-bytes-per-s", "5MiB"), "master": ("--down-s", "60")}
    with Cluster.of_folder(source, workers=2, extra=slow) as cluster:
        master = Master(cluster)
        name = master.begin(verify=True)
        master.wait(name, lambda load: load["filled_bytes"] > 4 * MIB)

        cluster.kill("worker-1")
        cluster.kill("master")
        cluster.restart("master")
        cluster.restart("worker-1")
        done = master.over(name, timeout_s=110)

        assert done["state"] == "succeeded", done
        assert done["attempts"] == 2
        held = [cluster.status(f"worker-{n}")["detail"]["blocks"]["sealed"] for n in range(2)]
        assert sum(held) == 40


def test_the_share_of_a_worker_that_stays_away_goes_to_the_others(tmp_path: Path) -> None:
    source = folder_of(tmp_path, 16, MIB)
    spec: ClusterSpec = Cluster.spec(
        f"file://{source}", workers=2, extra={"worker": ("--ufs-bytes-per-s", "1MiB"), "master": ("--down-s", "1")}
    )
    with Cluster(spec) as cluster:
        master = Master(cluster)
        name = master.begin()
        master.wait(name, lambda load: ufs_bytes(cluster, 2) > 0)  # blocks are filled together, and end together

        cluster.kill("worker-1")
        assert master.get(name)["state"] == "filling"
        done = master.over(name, timeout_s=110)

        assert done["state"] == "succeeded", done
        assert cluster.status("worker-0")["detail"]["blocks"]["sealed"] == 16


def test_a_load_is_cancelled_and_told_by_events_until_it_is_over(tmp_path: Path) -> None:
    source = folder_of(tmp_path, 20, MIB)
    with Cluster.of_folder(source, workers=1, extra={"worker": ("--ufs-bytes-per-s", "1MiB")}) as cluster:
        master = Master(cluster)
        name = master.begin()
        master.wait(name, lambda load: load["state"] == "filling")

        status, _ = master.send("DELETE", f"/v1/loads/{name}")
        events = get(cluster.local.children["master"].spec.port, f"/v1/loads/{name}/events", timeout_s=30)

        assert status == 200
        assert master.get(name)["state"] == "cancelled"
        assert events is not None
        assert b"event: over" in events[1]
        assert b'"state":"cancelled"' in events[1]
        assert master.send("DELETE", f"/v1/loads/{name}")[0] == 409
        assert [load["load_id"] for load in master.send("GET", "/v1/loads")[1]["loads"]] == [name]
        assert master.send("POST", "/v1/loads", {"path": "/nowhere"})[0] == 404
        assert master.send("GET", "/v1/loads/load-none")[0] == 404
