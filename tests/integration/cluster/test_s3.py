"""The whole path on real parts: SeaweedFS, ZooKeeper, a master, two workers, a mount, and programs that read it."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from forebay.client import Client
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.cluster import Cluster, eventually
from forebay.testing.s3 import S3Server
from forebay.testing.zookeeper import ZooKeeperServer
from tests.integration.cluster.kit import (
    BLOCK_BYTES,
    EXTENT_BYTES,
    MAX_AGE_S,
    MIB,
    at_rest,
    dataset,
    digests,
    digests_of,
    fill_bucket,
    s3_cluster,
    total,
)

pytestmark = [pytest.mark.slow, pytest.mark.fuse, pytest.mark.s3, pytest.mark.zookeeper]
READERS, CLIENTS = 64, 16
PIECE = 64 << 10


@dataclass
class Lake:
    """A bucket, the objects in it, and a cluster in front of it."""

    s3: S3Server
    bucket: str
    objects: dict[str, bytes]
    cluster: Cluster

    def put(self, key: str, body: bytes) -> None:
        """Writes an object."""
        self.s3.put(self.bucket, f"data/{key}", body)
        self.objects[key] = body


@pytest.fixture(scope="module")
def lake(s3_server: S3Server, zookeeper: ZooKeeperServer) -> Iterator[Lake]:
    """One for the tests of this module. A request to S3 asks for one extent, so that they can be counted."""
    objects = dataset()
    bucket = fill_bucket(s3_server, objects)
    registry = f"zookeeper://{zookeeper.address}/e2e-{secrets.token_hex(4)}"
    extra = {"worker": ("--fill-request-extents", "1", "--no-fill-tuning")}
    with s3_cluster(s3_server, bucket, registry=registry, extra=extra, short_circuit=False) as cluster:
        yield Lake(s3_server, bucket, objects, cluster)


def test_two_epochs_are_right_and_the_second_asks_s3_for_no_byte(lake: Lake) -> None:
    # when everything is read once
    assert digests(lake.cluster.mount) == digests_of(lake.objects)
    at_rest(lake.cluster)
    # then each byte has come from S3 once, and both workers have their share
    size = sum(map(len, lake.objects.values()))
    assert total(lake.cluster, "forebay_worker_filled_bytes_total", source="ufs") == size
    assert total(lake.cluster, "forebay_ufs_read_bytes_total") == size
    assert all(lake.cluster.status(f"worker-{n}")["detail"]["tier0"]["used_bytes"] > 0 for n in range(2))
    # and when everything is read again, past the kernel's cache, S3 is not asked
    read, asked = remote(lake.cluster), total(lake.cluster, "forebay_ufs_requests_total", operation="read")
    assert digests(lake.cluster.mount) == digests_of(lake.objects)
    assert total(lake.cluster, "forebay_ufs_read_bytes_total") == size
    assert total(lake.cluster, "forebay_ufs_requests_total", operation="read") == asked
    assert asked == sum(-(-len(body) // EXTENT_BYTES) for body in lake.objects.values())
    assert remote(lake.cluster) > read  # the kernel's cache is dropped as far as the kernel likes


def remote(cluster: Cluster) -> float:
    """Bytes that the gateway had from workers."""
    return cluster.metrics("gateway").get('forebay_fuse_read_bytes_total{source="remote"}', 0.0)


def test_sixty_four_readers_of_sixteen_clients_of_one_cold_file_cost_one_get_per_extent(lake: Lake) -> None:
    # given a file that nobody has read, of three blocks and six extents
    body = random.Random(64).randbytes(3 * BLOCK_BYTES - 5)
    lake.put("cold.bin", body)
    eventually((lake.cluster.mount / "cold.bin").exists, what="the new name")
    before = {
        name: total(lake.cluster, name, **labels)
        for name, labels in (
            ("forebay_ufs_requests_total", {"operation": "read"}),
            ("forebay_ufs_read_bytes_total", {}),
        )
    }

    async def read(client: Client, number: int) -> None:
        reader = await client.open("/cold.bin")
        try:
            for start in range(0, len(body), EXTENT_BYTES):
                at = min(start + number * PIECE % EXTENT_BYTES, len(body) - PIECE)
                assert await reader.read(at, PIECE) == body[at : at + PIECE]
        finally:
            await reader.close()

    async def main() -> None:
        options = lake.cluster.client_options(short_circuit_dirs=(), readahead_bytes=0)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(options, quiet())) for _ in range(CLIENTS)]
            async with asyncio.TaskGroup() as tasks:
                for number in range(READERS):
                    tasks.create_task(read(clients[number % CLIENTS], number))

    # when many read it at once
    run(main(), watchdog_s=60)
    at_rest(lake.cluster)
    # then S3 was asked for each extent once
    asked = total(lake.cluster, "forebay_ufs_requests_total", operation="read") - before["forebay_ufs_requests_total"]
    assert asked == 6
    came = total(lake.cluster, "forebay_ufs_read_bytes_total") - before["forebay_ufs_read_bytes_total"]
    assert came == len(body)


def test_an_object_replaced_while_it_is_open_is_never_mixed(lake: Lake) -> None:
    # given a file that is open, with its beginning read
    rng, size = random.Random(9), 8 * BLOCK_BYTES
    old, new = rng.randbytes(size), rng.randbytes(size + 11)
    lake.put("replaced.bin", old)
    path = lake.cluster.mount / "replaced.bin"
    eventually(path.exists, what="the new name")
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(fd, 4096, 0) == old[:4096]
        # when it is replaced
        lake.put("replaced.bin", new)
        replaced_s = time.monotonic()
        # then new lookups see the new version once the old answer is too old
        eventually(lambda: path.stat().st_size == len(new), what="the new size", timeout_s=20)
        assert time.monotonic() - replaced_s < 4 * MAX_AGE_S + 3
        with path.open("rb") as again:
            assert again.read() == new
        # and the old handle gives the old version's bytes, or says that it cannot
        for offset in range(0, size, MIB):
            assert pread(fd, offset) in (old[offset : offset + 4096], errno.ESTALE)
        assert pread(fd, size - 4096) == errno.ESTALE
    finally:
        os.close(fd)


def pread(fd: int, offset: int) -> bytes | int | None:
    """4 KiB at an offset, or the errno."""
    try:
        return os.pread(fd, 4096, offset)
    except OSError as e:
        return e.errno


def test_with_one_of_two_workers_stopped_reads_go_on_and_its_return_is_seen(lake: Lake) -> None:
    worker = lake.cluster.local.children["worker-1"]
    assert worker.stop(20.0)
    assert worker.returncode == 0
    try:
        assert digests(lake.cluster.mount) == digests_of(lake.objects)
    finally:
        lake.cluster.restart("worker-1")
    assert digests(lake.cluster.mount) == digests_of(lake.objects)
    at_rest(lake.cluster)
