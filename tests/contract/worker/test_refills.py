"""A block that rotted where nobody reads it: dropped, counted, and filled again without anybody asking."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from forebay.testing import run
from forebay_worker.app import Worker
from tests.contract.worker.kit import MIB, Cluster, File, cluster, until
from tests.unit.worker.kit import content
from tests.unit.worker.test_integrity import flip

SIZE = 5 * MIB


def with_worker(folder: Path, body: Callable[[Cluster, Worker], Awaitable[None]]) -> None:
    async def main() -> None:
        async with cluster(folder) as made:
            await body(made, await made.add("w1", scrub_rate=0))

    run(main(), watchdog_s=60)


async def cached(made: Cluster, worker: Worker, name: str) -> File:
    file = File.write(made.mount, name, content(SIZE, len(name)))
    await made.get(worker, file.path())
    await until(lambda: is_sealed(worker, file))
    return file


def is_sealed(worker: Worker, file: File) -> bool:
    block = worker.index.get(file.block_id())
    return block is not None and block.state.value == "sealed"


def block_file(made: Cluster, worker: Worker, file: File) -> Path:
    return made.folder / worker.member_id / file.block_id()[:2] / f"{file.block_id()}.blk"


async def scrub(worker: Worker) -> None:
    worker.scrubber.rate = 1 << 40
    await worker.scrubber.scrub(0)
    worker.scrubber.rate = 0


def test_what_the_scrubber_drops_is_filled_again_from_the_under_store(tmp_path: Path) -> None:
    async def body(made: Cluster, worker: Worker) -> None:
        rotten, sound = await cached(made, worker, "a"), await cached(made, worker, "bb")
        filled = worker.metrics.filled.value("ufs")
        flip(block_file(made, worker, rotten), SIZE // 2)
        await scrub(worker)
        await until(lambda: worker.metrics.refills.value("ok") == 1)
        await until(lambda: is_sealed(worker, rotten))
        assert block_file(made, worker, rotten).read_bytes() == content(SIZE, 1)
        assert worker.metrics.corrupt.value("ssd", "scrub") == 1
        assert worker.metrics.filled.value("ufs") == filled + SIZE
        assert is_sealed(worker, sound)

    with_worker(tmp_path, body)


def test_what_cannot_be_filled_again_is_told_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    async def body(made: Cluster, worker: Worker) -> None:
        gone, changed = await cached(made, worker, "a"), await cached(made, worker, "bb")
        source = Path(made.mount.ufs_uri.removeprefix("file://"))
        (source / "a").unlink()
        File.write(made.mount, "bb", b"another version")
        for file in (gone, changed):
            flip(block_file(made, worker, file), SIZE // 2)
        await scrub(worker)
        await until(lambda: worker.metrics.refills.value("not_found") == 1)
        await until(lambda: worker.metrics.refills.value("stale_version") == 1)
        await until(lambda: len(worker.index) == 0)

    with_worker(tmp_path, body)


def test_what_no_read_has_named_since_the_start_waits_for_one(tmp_path: Path) -> None:
    async def body(made: Cluster, worker: Worker) -> None:
        file = await cached(made, worker, "a")
        shutil.copytree(made.folder / "w1", made.folder / "w2", ignore=shutil.ignore_patterns("*.sock"))
        other = await made.add("w2", scrub_rate=0)
        await until(lambda: is_sealed(other, file))
        flip(block_file(made, other, file), SIZE // 2)
        await scrub(other)
        await until(lambda: other.metrics.refills.value("unknown") == 1)
        assert other.index.get(file.block_id()) is None

    with_worker(tmp_path, body)
