"""The worker as a process: start, signals, bad settings, two on one directory, sudden death."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from forebay.errors import PeerUnavailable
from forebay.runtime import Deadline
from forebay.testing import run
from tests.contract.worker.kit import CLUSTER, MIB, Cluster, File, cluster, ticket
from tests.integration.worker.kit import process, ready
from tests.unit.worker.kit import content, memory_dir

pytestmark = pytest.mark.slow


def flags(c: Cluster, tier: str, *more: str) -> list[str]:
    return [
        "--registry",
        f"http://{c.master.server.address}",
        "--cluster-id",
        CLUSTER,
        "--cluster-key-file",
        str(c.key_file),
        "--ufs-roots",
        c.mount.ufs_uri,
        "--tier-dirs",
        tier,
        *more,
    ]


async def read(c: Cluster, address: str, file: File, start: int, stop: int) -> bytes:
    buffer = memoryview(bytearray(stop - start))
    headers = {"range": f"bytes={start}-{stop - 1}", "forebay-ticket": ticket()}
    await c.client.read_into(address, file.path(), buffer, deadline=Deadline.after(20), headers=headers)
    return bytes(buffer)


def test_it_serves_and_ends_at_sigterm_with_code_zero(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c, process(*flags(c, f"SSD:{tmp_path}/t:64MiB")) as worker:
            await ready(worker)
            data = content(5 * MIB)
            file = File.write(c.mount, "a", data)
            assert await read(c, worker.address, file, 0, len(data)) == data
            worker.stop()
            assert await worker.ended() == 0
            assert all(member.state == "down" for member in c.master.hub.current().members)

    run(main(), watchdog_s=60)


def test_killed_in_mid_fill_nothing_torn_is_served_after_the_restart(tmp_path: Path) -> None:
    async def main() -> None:
        with memory_dir() as mem:
            async with cluster(tmp_path, block_size=64 * MIB) as c:
                data = content(64 * MIB)
                file = File.write(c.mount, "a", data)
                given = flags(c, f"MEM:{mem}:128MiB", "--fill-streams", "1", "--no-fill-tuning")
                async with process(*given) as worker:
                    await ready(worker)
                    assert await read(c, worker.address, file, 0, 9 * MIB) == data[: 9 * MIB]
                    worker.kill()
                    await worker.ended()
                torn, sealed = list(mem.glob("??/*.part")), list(mem.glob("??/*.blk"))
                assert len(torn) + len(sealed) == 1
                if torn:
                    assert torn[0].read_bytes() != data
                async with process(*given) as worker:
                    await ready(worker)
                    assert await read(c, worker.address, file, 0, len(data)) == data
                    worker.stop()
                    assert await worker.ended() == 0
                for path in mem.glob("??/*.blk"):
                    assert path.read_bytes() == data

    run(main(), watchdog_s=60)


def test_killed_in_mid_read_the_client_gets_an_error_and_no_wrong_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c, process(*flags(c, f"SSD:{tmp_path}/t:64MiB")) as worker:
            await ready(worker)
            file = File.write(c.mount, "a", content(16 * MIB))
            reading = asyncio.ensure_future(read(c, worker.address, file, 0, 16 * MIB))
            await asyncio.sleep(0)
            worker.kill()
            with pytest.raises(PeerUnavailable):
                await reading

    run(main(), watchdog_s=60)


def test_two_workers_on_one_directory_the_second_is_told_and_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c, process(*flags(c, f"SSD:{tmp_path}/t:64MiB")) as first:
            await ready(first)
            async with process(*flags(c, f"SSD:{tmp_path}/t:64MiB")) as second:
                assert await second.ended() == 2
                assert second.lines[-1].startswith("error: tier_dirs: ")
                assert "another running worker" in second.lines[-1]
            file = File.write(c.mount, "a", b"hello")
            assert await read(c, first.address, file, 0, 5) == b"hello"

    run(main(), watchdog_s=60)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--tier-dirs", "TAPE:/x"], "error: --tier-dirs: "),
        (["--tier-dirs", "SSD:{tmp}/data/inside:64MiB"], "error: tier_dirs: "),
        (["--tier-dirs", "SSD:{tmp}/file/below:64MiB"], "error: tier_dirs: "),
        (["--tier-dirs", "MEM:{tmp}/m:900TiB"], "error: tier_dirs: "),
        (["--port", "{port}"], "error: port: "),
        (["--port", "x"], "error: --port: "),
        (["--cluster-key-file", "{tmp}/none"], "error: cluster_key_file: "),
        (["--ufs-roots", "local://x"], "error: ufs_roots: "),
        (["--fill-stream", "3"], "error: --fill-stream: "),
        (["--host", "0.0.0.0", "--cluster-key-file", "", "--insecure"], "error: "),
        (["--low-watermark", "0.99"], "error: "),
        (["--registry", "gopher://x"], "error: registry: "),
    ],
)
def test_a_setting_that_cannot_work_ends_it_with_code_two_and_leaves_nothing(
    tmp_path: Path, more: list[str], said: str
) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            (tmp_path / "file").write_text("x")
            with socket.create_server(("127.0.0.1", 0)) as taken:
                port = str(taken.getsockname()[1])
                given = [text.replace("{tmp}", str(tmp_path)).replace("{port}", port) for text in more]
                async with process(*flags(c, f"SSD:{tmp_path}/t:64MiB", *given)) as worker:
                    assert await worker.ended() == 2, worker.lines
                    assert worker.lines[-1].startswith(said), worker.lines[-1]
        assert sorted(os.listdir(tmp_path)) == ["data", "file", "keys"]
        assert os.listdir(tmp_path / "data") == []

    run(main(), watchdog_s=60)


def test_a_directory_that_it_may_not_write_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        # A read-only file system is what root cannot write either.
        async with cluster(tmp_path) as c, process(*flags(c, "SSD:/proc/forebay:64MiB")) as worker:
            assert await worker.ended() == 2
            assert "/proc/forebay" in worker.lines[-1]

    run(main(), watchdog_s=60)


def test_an_unreachable_registry_is_told_and_given_up_at_the_deadline(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            given = flags(c, f"SSD:{tmp_path}/t:64MiB", "--registry", "http://127.0.0.1:1", "--registry-timeout-s", "1")
            async with process(*given) as worker:
                assert await worker.ended() == 1
                assert worker.lines[-1].startswith("error: peer_unavailable: ")
                assert "127.0.0.1:1" in worker.lines[-1]
        assert not (tmp_path / "t").exists()

    run(main(), watchdog_s=60)
