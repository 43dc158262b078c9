"""``POST /v1/blocks:fill``: many blocks by one request, each with its own fate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from forebay.contracts import BlockTarget, FillReply, FillRequest
from forebay.contracts.blocks import FILL_PATH, TICKET_HEADER
from forebay.errors import Unauthenticated
from forebay.runtime import Deadline
from forebay.testing import run
from forebay_worker.app import Worker
from forebay_worker.block import State
from tests.contract.worker.kit import MIB, Cluster, File, cluster, ticket, until
from tests.unit.worker.kit import content, memory_dir


def target(file: File, index: int = 0) -> BlockTarget:
    return BlockTarget(
        mount_id=file.mount.mount_id, key=file.key, size=file.size, fingerprint=file.fingerprint, index=index
    )


async def fill(of: Cluster, worker: Worker, *targets: BlockTarget, **claims: str) -> FillReply:
    headers = {TICKET_HEADER: ticket(**claims)}
    request, deadline = FillRequest(targets=targets), Deadline.after(30)
    return await of.client.call(
        worker.server.address, FILL_PATH, request, FillReply, deadline=deadline, headers=headers
    )


@pytest.mark.parametrize("kind", ["SSD", "MEM"])
def test_small_and_large_blocks_are_all_here_when_the_answer_comes(tmp_path: Path, kind: str) -> None:
    async def body(mem: Path) -> None:
        async with cluster(tmp_path) as here:
            folder = mem if kind == "MEM" else tmp_path
            worker = await here.add("w1", tier_dirs=(f"{kind}:{folder / 'tier'}:256MiB",))
            sizes = [1, 1000, 100_000, 512 << 10, (512 << 10) + 1, 9 * MIB]
            files = [File.write(here.mount, f"f{n}", content(size, n)) for n, size in enumerate(sizes)]
            assert await fill(here, worker, *map(target, files)) == FillReply(complete=len(files))
            await until(lambda: worker.index.counts()[State.SEALED] == len(files))
            for n, file in enumerate(files):
                (tmp_path / "data" / file.key).unlink()
                assert (await here.get(worker, file.path())).body == content(sizes[n], n)
            assert await fill(here, worker, *map(target, files)) == FillReply(complete=len(files))
            assert len(worker.filler) == 0

    with memory_dir() as folder:
        run(body(folder))


@pytest.mark.parametrize("kind", ["SSD", "MEM"])
def test_small_blocks_stay_open_for_readers_and_not_when_they_are_filled_for_later(tmp_path: Path, kind: str) -> None:
    async def body(mem: Path) -> None:
        async with cluster(tmp_path) as here:
            folder = mem if kind == "MEM" else tmp_path
            worker = await here.add("w1", tier_dirs=(f"{kind}:{folder / 'tier'}:64MiB",))
            # given one block filled by command, and one by a read
            later, now = (File.write(here.mount, f"f{n}", content(3000, n)) for n in range(2))
            assert await fill(here, worker, target(later)) == FillReply(complete=1)
            assert (await here.get(worker, now.path())).body == content(3000, 1)
            await until(lambda: len(worker.filler) == 0)
            blocks = [block for file in (later, now) if (block := worker.index.get(file.block_id())) is not None]
            # then only the second one's file is held open, and both are as good
            assert [worker.store.opened(block) is not None for block in blocks] == [False, True]
            assert [(await here.get(worker, file.path())).body for file in (later, now)] == [
                content(3000, 0),
                content(3000, 1),
            ]

    with memory_dir() as folder:
        run(body(folder))


def test_what_cannot_be_filled_is_told_by_its_position_and_the_rest_is_here(tmp_path: Path) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            worker = await here.add("w1")
            good = File.write(here.mount, "good", content(3000))
            stale = replace(File.write(here.mount, "stale", content(3000, 1)), fingerprint="other")
            gone = File.write(here.mount, "gone", content(3000, 2))
            (tmp_path / "data" / "gone").unlink()
            outside = File.write(here.mount, "other/file", content(10))
            reply = await fill(here, worker, *map(target, (stale, gone, good)), target(good, 7))
            assert reply.complete == 1
            assert sorted((f.position, f.code) for f in reply.failed) == [
                (0, "stale_version"),
                (1, "not_found"),
                (3, "invalid_request"),
            ]
            beyond = await fill(here, worker, target(outside), prefix="good")
            assert [f.code for f in beyond.failed] == ["ticket_out_of_prefix"]
            await until(lambda: len(worker.filler) == 0)
            assert worker.index.counts()[State.SEALED] == 1

    run(body())


def test_without_a_genuine_ticket_nothing_is_filled(tmp_path: Path) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            worker = await here.add("w1")
            file = File.write(here.mount, "f", content(3000))
            request, deadline = FillRequest(targets=(target(file),)), Deadline.after(30)
            with pytest.raises(Unauthenticated):
                await here.client.call(worker.server.address, FILL_PATH, request, FillReply, deadline=deadline)
            stolen = await fill(here, worker, target(file), cluster="another")
            assert (stolen.complete, len(stolen.failed)) == (0, 1)
            assert len(worker.index) == 0

    run(body())


def test_a_block_that_has_no_room_is_told(tmp_path: Path) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            worker = await here.add("w1", tier_dirs=(f"SSD:{tmp_path / 'w1'}:1MiB",))
            file = File.write(here.mount, "f", content(3 * MIB))
            reply = await fill(here, worker, target(file))
            assert [f.code for f in reply.failed] == ["not_cached"]

    run(body())
