"""A real worker killed by itself at every step in which its directories change; what the next one finds is right.

Each step has a name (``forebay_worker.steps``), so a kill comes at that place and not near it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forebay.contracts.blocks import READ_TYPE_HEADER, TICKET_HEADER
from forebay.errors import ForebayError
from forebay.runtime import Deadline
from forebay.testing import run
from forebay.testing.cluster import parse_metrics
from forebay_worker.steps import NAMES
from tests.contract.worker.kit import Cluster, File, cluster, ticket
from tests.integration.worker.kit import Process, process, ready
from tests.unit.worker.kit import memory_dir

pytestmark = [pytest.mark.slow]
MIB = 1 << 20
REACHED_S = 60.0
"""Within this a step must have been taken: some wait for a timer, and the machine may be slow."""

SIZES = {"small": 100_000, "middle": 9 * MIB + 1, "large": 20 * MIB}
AT_START = {"start.doubted", "start.booted", "log.rewritten", "log.replaced"}
"""Steps that are taken by a start on what an earlier one left (their tests are in property/worker/test_crashes)."""


@pytest.fixture
def mem() -> Iterator[Path]:
    with memory_dir() as path:
        yield path


def flags(c: Cluster, *tiers: str) -> list[str]:
    given: list[Any] = ["--registry", f"http://{c.master.server.address}", "--cluster-id", "test"]
    given += ["--cluster-key-file", c.key_file]
    given += ["--ufs-roots", c.mount.ufs_uri, "--heap-reserve", "0", "--policy", "lru"]
    for tier in tiers:
        given += ["--tier-dirs", tier]
    return [str(one) for one in given]


async def read(c: Cluster, worker: Process, file: File, **headers: str) -> bytes:
    given = {TICKET_HEADER: ticket(), **headers}
    reply = await c.client.fetch(worker.address, "GET", file.path(), headers=given, deadline=Deadline.after(20))
    return reply.body


async def work_until_killed(c: Cluster, worker: Process, files: dict[str, File], step: str) -> None:
    """Fills, seals, evicts, demotes and promotes, again and again, until the worker has killed itself at the step."""
    try:
        async with asyncio.timeout(REACHED_S):
            with pytest.raises(ForebayError):  # only its death makes a read fail
                await work(c, worker, files)
            assert await worker.ended() == -9, "\n".join(worker.lines[-20:])
    except TimeoutError:
        pytest.fail(f"the step {step} was not taken within {REACHED_S} s:\n" + "\n".join(worker.lines[-20:]))


async def work(c: Cluster, worker: Process, files: dict[str, File]) -> None:
    while True:
        await read_all(c, worker, files)
        await read_all(c, worker, files, **{READ_TYPE_HEADER: "CACHE_PROMOTE"})
        await asyncio.sleep(0.05)


async def read_all(c: Cluster, worker: Process, files: dict[str, File], **headers: str) -> None:
    for file in files.values():
        await read(c, worker, file, **headers)


async def evicted(c: Cluster, worker: Process) -> int:
    """How many blocks this worker has let go."""
    reply = await c.client.fetch(worker.address, "GET", "/metrics", deadline=Deadline.after(20))
    found = parse_metrics(bytes(reply.body))
    return int(sum(value for name, value in found.items() if name.startswith("forebay_worker_evictions_total")))


def complete_blocks(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.glob("??/*.blk")]


@pytest.mark.parametrize("step", sorted(set(NAMES) - AT_START))
def test_killed_at_a_step_the_next_worker_finds_nothing_wrong(tmp_path: Path, mem: Path, step: str) -> None:
    async def main() -> None:
        async with cluster(tmp_path, block_size=32 * MIB) as c:
            data = {name: random.Random(name).randbytes(size) for name, size in SIZES.items()}
            data |= {f"more-{number}": random.Random(number).randbytes(7 * MIB) for number in range(4)}
            files = {name: File.write(c.mount, name, content) for name, content in data.items()}
            known = {file.block_id(): hashlib.sha256(data[name]).digest() for name, file in files.items()}
            disk = tmp_path / "disk"
            given = flags(c, f"MEM:{mem}:34MiB", f"SSD:{disk}:40MiB")

            # given a worker that dies at this step
            nth = 1 if step == "log.synced" else 2  # the log is synced every few seconds
            async with process(*given, env={"CRASH_WORKER_AT": f"{step}:{nth}"}) as worker:
                await ready(worker)
                await work_until_killed(c, worker, files, step)

            # then what has the name of a complete block is complete
            for path in complete_blocks(mem, disk):
                assert hashlib.sha256(path.read_bytes()).digest() == known[path.stem], path
            before = {path.stem for path in complete_blocks(mem, disk)}

            # and the next worker has it all, serves it all, and leaves nothing that it does not know
            async with process(*given) as worker:
                await ready(worker)
                # (looked at twice: a move that was cut short may end between the two folders)
                after = {path.stem for _ in range(2) for path in complete_blocks(mem, disk)}
                assert len(before - after) <= await evicted(c, worker)  # (a cut move may leave a tier too full)
                for name, file in files.items():
                    assert await read(c, worker, file) == data[name]
                worker.stop()
                assert await worker.ended() == 0, "\n".join(worker.lines[-20:])
            for path in complete_blocks(mem, disk):
                assert hashlib.sha256(path.read_bytes()).digest() == known[path.stem], path
            names = [path.stem for path in complete_blocks(mem, disk)]
            assert len(names) == len(set(names))
            assert not (mem / "quarantine").exists()
            assert not (disk / "quarantine").exists()

    run(main(), watchdog_s=110)
