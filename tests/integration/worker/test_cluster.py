"""Workers under a real master, read by the real client."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.cli.sources import SourceOptions
from forebay.client import Client
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.cluster import Cluster, eventually, parse_metrics
from forebay.testing.s3 import S3Server
from tests.unit.worker.kit import MIB, content

pytestmark = pytest.mark.slow


def write(folder: Path, count: int = 6) -> dict[str, bytes]:
    folder.mkdir()
    data = {f"shard {number}": content(5 * MIB + number, number) for number in range(count)}
    for name, value in data.items():
        (folder / name).write_bytes(value)
    return data


async def read_all(cluster: Cluster, names: list[str]) -> dict[str, bytes]:
    found = {}
    # a hedge may fill a block at a second worker as well
    async with Client(cluster.client_options(short_circuit_dirs=(), hedge=False), quiet()) as client:
        for name in names:
            reader = await client.open(f"/{name}")
            try:
                found[name] = await reader.read(0, reader.size)
            finally:
                await reader.close()
    return found


def served(cluster: Cluster, source: str) -> float:
    sample = f'forebay_worker_served_bytes_total{{source="{source}"}}'
    return sum(cluster.metrics(f"worker-{number}").get(sample, 0.0) for number in range(2))


def test_two_workers_share_the_blocks_and_the_second_epoch_asks_the_source_for_nothing(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    with Cluster.of_folder(tmp_path / "data", workers=2) as cluster:
        assert run(read_all(cluster, list(data)), watchdog_s=60) == data
        total = sum(map(len, data.values()))
        cold = served(cluster, "ufs") + served(cluster, "mem")
        assert cold == total
        asked = served(cluster, "ufs")
        eventually(lambda: sum(cluster.metrics(f"worker-{n}")["forebay_worker_blocks_sealed"] for n in range(2)) == 6)
        assert run(read_all(cluster, list(data)), watchdog_s=60) == data
        assert served(cluster, "ufs") == asked
        assert served(cluster, "peer") == 0
        for number in range(2):
            metrics = cluster.metrics(f"worker-{number}")
            assert metrics["forebay_worker_in_flight"] == 0
            assert metrics["forebay_worker_fills_in_flight"] == 0
            assert cluster.status(f"worker-{number}")["ready"] is True


def test_a_worker_that_was_killed_is_warm_again_after_its_restart(tmp_path: Path) -> None:
    data = write(tmp_path / "data", 3)
    with Cluster.of_folder(tmp_path / "data", workers=1) as cluster:
        assert run(read_all(cluster, list(data)), watchdog_s=60) == data
        eventually(lambda: cluster.metrics("worker-0")["forebay_worker_blocks_sealed"] == 3)
        cluster.kill("worker-0")
        cluster.restart("worker-0")
        assert run(read_all(cluster, list(data)), watchdog_s=60) == data
        assert cluster.metrics("worker-0").get('forebay_worker_served_bytes_total{source="ufs"}', 0.0) == 0


def test_workers_of_this_host_are_asked_over_their_sockets_and_over_the_network_when_those_go(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    telemetry = quiet()

    def by_socket() -> float:
        return parse_metrics(telemetry.metrics.render()).get("forebay_client_socket_reads_total", 0.0)

    async def body(cluster: Cluster) -> None:
        options = cluster.client_options(short_circuit="uds", readahead_bytes=0, hedge=False)
        for are_there in (True, False):
            before = by_socket()
            async with Client(options, telemetry) as client:
                for path in [path for folder in options.short_circuit_dirs for path in folder.glob("*.sock")]:
                    if not are_there:
                        path.unlink()  # after it was found
                for name, value in data.items():
                    reader = await client.open(f"/{name}")
                    assert await reader.read(0, reader.size) == value
                    await reader.close()
            assert (by_socket() - before >= len(data)) is are_there
            assert (by_socket() > before) is are_there

    with Cluster.of_folder(tmp_path / "data", workers=2) as cluster:
        run(body(cluster), watchdog_s=60)


@pytest.mark.s3
def test_s3_objects_are_read_right_and_no_secret_shows(tmp_path: Path, s3_server: S3Server) -> None:
    s3_server.admin.make_bucket("worker-reads")
    data = {f"shard {number}": content(9 * MIB + number, number) for number in range(3)}
    for name, value in data.items():
        s3_server.admin.put("worker-reads", f"train/{name}", value)
    options = SourceOptions(endpoint=s3_server.endpoint, region="us-east-1", path_style=True)
    spec = Cluster.spec("s3://worker-reads/train", workers=2, options=options, environ=s3_server.env)
    with Cluster(spec) as cluster:
        for _ in range(2):
            assert run(read_all(cluster, list(data)), watchdog_s=60) == data
        assert served(cluster, "ufs") <= sum(map(len, data.values()))
        shown = [cluster.log(name) for name in ("worker-0", "worker-1")]
        shown += [cluster.http(name, "/v1/status").decode() for name in ("worker-0", "worker-1")]
        assert not any("CANARY" in text for text in shown)
