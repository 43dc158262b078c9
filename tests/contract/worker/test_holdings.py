"""What a worker says that it holds is what lies in its directories."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson

from forebay.contracts import HoldsReply, HoldsRequest, encode
from forebay.contracts.blocks import TICKET_HEADER
from forebay.contracts.loads import HOLDS_PATH
from forebay.runtime import Deadline
from forebay.testing import run
from forebay_worker.app import Worker
from tests.contract.worker.kit import MIB, Cluster, File, cluster, ticket, until
from tests.unit.worker.kit import content


def with_worker(folder: Path, body: Callable[[Cluster, Worker], Awaitable[None]]) -> None:
    async def main() -> None:
        async with cluster(folder) as made:
            await body(made, await made.add("worker"))

    run(main(), watchdog_s=60)


async def holds(made: Cluster, worker: Worker, *files: File, verify: bool = False) -> HoldsReply:
    request = HoldsRequest(block_ids=tuple(f.block_id() for f in files), verify=verify)
    headers = {TICKET_HEADER: ticket()}
    return await made.client.call(
        worker.server.address, HOLDS_PATH, request, HoldsReply, deadline=Deadline.after(20), headers=headers
    )


async def cached(made: Cluster, worker: Worker, name: str) -> File:
    file = File.write(made.mount, name, content(MIB, len(name)))
    await made.get(worker, file.path())

    def is_sealed() -> bool:
        block = worker.index.get(file.block_id())
        return block is not None and block.state.value == "sealed"

    await until(is_sealed)
    return file


def block_file(made: Cluster, worker: Worker, file: File) -> Path:
    (found,) = (made.folder / worker.member_id).rglob(f"{file.block_id()}.blk")
    return found


def test_complete_blocks_are_named_and_others_not(tmp_path: Path) -> None:
    async def body(made: Cluster, worker: Worker) -> None:
        here, elsewhere = await cached(made, worker, "a"), File.write(made.mount, "bb", b"x")

        assert (await holds(made, worker, here, elsewhere)).complete == (here.block_id(),)

    with_worker(tmp_path, body)


def test_a_file_that_was_taken_away_or_cut_behind_the_worker_s_back_is_not_held(tmp_path: Path) -> None:
    async def body(made: Cluster, worker: Worker) -> None:
        gone, cut = await cached(made, worker, "a"), await cached(made, worker, "bb")
        block_file(made, worker, gone).unlink()
        with block_file(made, worker, cut).open("r+b") as file:
            file.truncate(MIB // 2)

        assert (await holds(made, worker, gone, cut)).complete == ()
        assert worker.index.get(gone.block_id()) is None

    with_worker(tmp_path, body)


def test_a_block_that_rotted_is_found_by_verifying_and_dropped(tmp_path: Path) -> None:
    async def body(made: Cluster, worker: Worker) -> None:
        sound, rotten = await cached(made, worker, "a"), await cached(made, worker, "bb")
        with block_file(made, worker, rotten).open("r+b") as file:
            file.seek(MIB // 2)
            file.write(b"rot")

        unverified = await holds(made, worker, sound, rotten)
        verified = await holds(made, worker, sound, rotten, verify=True)

        assert set(unverified.complete) == {sound.block_id(), rotten.block_id()}
        assert (verified.complete, verified.corrupt) == ((sound.block_id(),), (rotten.block_id(),))
        assert (await holds(made, worker, rotten)).complete == ()

    with_worker(tmp_path, body)


def test_without_a_ticket_nothing_is_said(tmp_path: Path) -> None:
    async def body(made: Cluster, worker: Worker) -> None:
        reply = await made.client.fetch(
            worker.server.address,
            "POST",
            HOLDS_PATH,
            body=encode(HoldsRequest(block_ids=())),
            deadline=Deadline.after(10),
        )

        assert (reply.status, orjson.loads(reply.body)["code"]) == (401, "unauthenticated")

    with_worker(tmp_path, body)
