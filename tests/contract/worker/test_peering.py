"""Workers among each other: who is asked for a block that is not here, and who keeps a copy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from forebay.contracts import DrainReply, DrainRequest, RebalanceReply, RebalanceRequest, Record
from forebay.contracts.blocks import (
    DRAIN_PATH,
    HOP_HEADER,
    OFFERED_HEADER,
    ONLY_IF_CACHED,
    REBALANCE_PATH,
    SOURCE_HEADER,
)
from forebay.errors import PeerUnavailable
from forebay.runtime import Deadline
from forebay.testing import run
from forebay_worker.app import Worker
from tests.contract.worker.kit import MIB, Cluster, File, cluster, until
from tests.unit.worker.kit import content

R = TypeVar("R", bound=Record)
SIZE = 9 * MIB
DATA = content(SIZE)
ONLY = {"cache-control": ONLY_IF_CACHED}


def with_cluster(folder: Path, body: Callable[[Cluster], Awaitable[None]]) -> None:
    async def main() -> None:
        async with cluster(folder) as made:
            await body(made)

    run(main(), watchdog_s=60)


def files(made: Cluster, count: int = 12) -> list[File]:
    return [File.write(made.mount, f"shard {number}", DATA) for number in range(count)]


def ranking(worker: Worker, file: File, count: int = 2) -> list[str]:
    return [member.member_id for member in worker.homes.owners(file.block_id(), count)]


async def add(made: Cluster, name: str, **settings: Any) -> Worker:
    """One more worker, and all know it as an owner."""
    worker = await made.add(name, **settings)
    count = len(made.workers)
    await until(lambda: all(len(w.homes.owners("0" * 32, 9)) == count for w in made.workers))
    return worker


async def homed(made: Cluster, *names: str) -> File:
    """A file whose block has this ranking."""
    for number in range(1000):
        file = File.write(made.mount, f"shard {number}", DATA)
        if ranking(made.workers[0], file, len(names)) == list(names):
            return file
        gone(file)
    raise AssertionError("no such ranking")


def sealed(worker: Worker, file: File) -> bool:
    block = worker.index.get(file.block_id())
    return block is not None and block.state.value == "sealed"


async def whole(made: Cluster, worker: Worker, file: File) -> bytes:
    """All of a block. A busy machine may need longer than a probe waits: then it is asked again."""
    async with asyncio.timeout(30):
        while (reply := await made.get(worker, file.path())).status != 200:
            await asyncio.sleep(0.5)
        return reply.body


def gone(file: File) -> None:
    """The under store loses the file: from here on its bytes come from workers or not at all."""
    (Path(file.mount.ufs_uri.removeprefix("file://")) / file.key).unlink()


def test_a_newcomer_takes_its_blocks_from_their_former_home_and_not_from_the_under_store(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        old = await add(made, "old")
        all_files = files(made)
        for file in all_files:
            assert (await made.get(old, file.path())).body == DATA
        new = await add(made, "new")
        taken = [file for file in all_files if ranking(new, file)[0] == "new"]
        assert taken
        assert not len(new.index)  # that it came moved nothing
        for file in taken:
            gone(file)
            assert await whole(made, new, file) == DATA
            # read from its start, it is completed
            await until(partial(sealed, new, file))

    with_cluster(tmp_path, body)


def test_a_block_that_nobody_holds_is_filled_from_the_under_store_after_the_probes(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        first, second = await add(made, "a"), await add(made, "b")
        file = await homed(made, "a", "b")
        reply = await made.get(first, file.path())
        assert (reply.body, reply.headers[SOURCE_HEADER]) == (DATA, "ufs")
        assert second.index.get(file.block_id()) is None  # the probe caused nothing there

    with_cluster(tmp_path, body)


def test_a_stand_in_takes_a_block_from_the_home_that_holds_it_and_not_from_the_under_store(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        # given a home that holds a block
        home, other = await add(made, "a"), await add(made, "b")
        file = await homed(made, "a", "b")
        assert await whole(made, home, file) == DATA
        gone(file)
        # when somebody who found it slow asks the next in ranking (again, if this machine was too busy for a probe)
        asked = {HOP_HEADER: "1", "range": f"bytes=0-{MIB - 1}"}
        async with asyncio.timeout(40):
            while True:
                with suppress(PeerUnavailable):
                    reply = await made.get(other, file.path(), headers=asked)
                    if reply.status == 206:
                        break
                await asyncio.sleep(0.5)
        # then the home is probed first
        assert (reply.body, reply.headers[SOURCE_HEADER]) == (DATA[:MIB], "peer")

    with_cluster(tmp_path, body)


def test_an_entry_worker_reads_through_the_home_and_keeps_no_copy(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        home, entry = await add(made, "a"), await add(made, "b")
        file = await homed(made, "a", "b")
        for _ in range(3):
            assert (await made.get(entry, file.path())).body == DATA
        assert entry.index.get(file.block_id()) is None
        await until(lambda: sealed(home, file))

    with_cluster(tmp_path, body)


def test_a_replica_is_filled_by_the_second_read(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        home, replica = await add(made, "a"), await add(made, "b")
        file = await homed(made, "a", "b")
        await made.master.mount(msgspec.structs.replace(made.mount, replicas=2))
        await until(lambda: all(w.book.find("m1").mount.replicas == 2 for w in made.workers))
        # when: it is read once, extent by extent
        for start in range(0, SIZE, 4 * MIB):
            await made.get(replica, file.path(), {"range": f"bytes={start}-{min(SIZE, start + 4 * MIB) - 1}"})
        assert replica.index.get(file.block_id()) is None
        await until(lambda: sealed(home, file))
        # and once more, from the start
        reply = await made.get(replica, file.path(), {"range": "bytes=0-99"})
        # then
        assert reply.body == DATA[:100]
        await until(lambda: sealed(replica, file))
        gone(file)
        assert (await made.get(replica, file.path(), ONLY)).body == DATA

    with_cluster(tmp_path, body)


def test_a_home_that_admits_nothing_offers_the_block_to_the_second_and_says_so(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        full = await add(made, "a", tier_dirs=(f"SSD:{made.folder / 'small'}:4MiB",), capacity_weight=1.0)
        second = await add(made, "b", capacity_weight=1.0)
        file = await homed(made, "a", "b")
        reply = await made.get(full, file.path())
        assert (reply.body, reply.headers[OFFERED_HEADER]) == (DATA, "b")
        await until(lambda: sealed(second, file))
        assert full.index.get(file.block_id()) is None
        # and the next read asks the under store for nothing
        gone(file)
        reply = await made.get(full, file.path())
        assert (reply.body, reply.headers[SOURCE_HEADER]) == (DATA, "peer")
        # who sends the request on is answered, and sent no further
        reply = await made.get(full, file.path(), {HOP_HEADER: "1", "range": "bytes=0-9"})
        assert OFFERED_HEADER not in reply.headers

    with_cluster(tmp_path, body)


@pytest.mark.parametrize("replicas", [1, 2])
def test_only_if_cached_is_never_sent_on(tmp_path: Path, replicas: int) -> None:
    async def body(made: Cluster) -> None:
        await add(made, "a")
        await add(made, "b")
        await made.master.mount(msgspec.structs.replace(made.mount, replicas=replicas))
        file = await homed(made, "a", "b")
        for worker in made.workers:
            assert (await made.get(worker, file.path(), ONLY)).status == 504
        assert all(w.index.get(file.block_id()) is None for w in made.workers)

    with_cluster(tmp_path, body)


def state(made: Cluster, name: str) -> str:
    current = made.workers[-1].registry.current()
    assert current is not None
    return next(m.state for m in current.members if m.member_id == name)


async def admin(made: Cluster, worker: Worker, path: str, body: Record, kind: type[R]) -> R:
    """What an operator says to a worker."""
    return await made.client.call(worker.server.address, path, body, kind, deadline=Deadline.after(10))


async def rebalanced(made: Cluster, worker: Worker, bytes_per_s: int = 10**9) -> RebalanceReply:
    await admin(made, worker, REBALANCE_PATH, RebalanceRequest(bytes_per_s=bytes_per_s), RebalanceReply)
    await until(lambda: not worker.rebalance.state().running, seconds=30.0)
    return worker.rebalance.state()


def test_a_draining_worker_owns_nothing_answers_what_it_holds_and_can_come_back(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        leaving, staying = await add(made, "a"), await add(made, "b")
        file = await homed(made, "a", "b")
        assert (await made.get(leaving, file.path())).body == DATA
        await until(lambda: sealed(leaving, file))
        # when
        assert (await admin(made, leaving, DRAIN_PATH, DrainRequest(draining=True), DrainReply)).state == "draining"
        await until(lambda: state(made, "a") == "draining" and ranking(staying, file) == ["b"])
        # then: it is read from, and its blocks find their way to the new home without the under store
        gone(file)
        assert (await made.get(leaving, file.path(), ONLY)).body == DATA
        assert (await made.get(staying, file.path())).body == DATA
        await admin(made, leaving, DRAIN_PATH, DrainRequest(draining=False), DrainReply)
        await until(lambda: ranking(staying, file) == ["a", "b"])

    with_cluster(tmp_path, body)


def test_a_rebalance_hands_blocks_to_their_new_home_and_lets_them_go(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        old = await add(made, "old")
        all_files = files(made, 16)  # so many that both members get some
        for file in all_files:
            await made.get(old, file.path())
        await until(lambda: all(sealed(old, file) for file in all_files))
        new = await add(made, "new")
        moving = [file for file in all_files if ranking(old, file)[0] == "new"]
        staying = [file for file in all_files if file not in moving]
        assert moving
        assert staying
        for file in all_files:
            gone(file)
        assert not len(new.index)
        # when
        reply = await rebalanced(made, old)
        # then
        assert (reply.moved, reply.failed, reply.unknown) == (len(moving), 0, 0)
        assert all(sealed(new, file) for file in moving)
        assert all(old.index.get(file.block_id()) is None for file in moving)
        assert all(sealed(old, file) for file in staying)
        assert (await rebalanced(made, old)).moved == 0

    with_cluster(tmp_path, body)


def test_a_rebalance_keeps_to_its_rate_and_can_be_stopped(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        old = await add(made, "old")
        all_files = files(made, 16)  # so many that both members get some
        for file in all_files:
            await made.get(old, file.path())
        await add(made, "new")
        moving = [file for file in all_files if ranking(old, file)[0] == "new"]
        assert len(moving) >= 2
        # when: two blocks a second at most
        started = time.monotonic()
        await admin(made, old, REBALANCE_PATH, RebalanceRequest(bytes_per_s=2 * SIZE), RebalanceReply)
        await until(lambda: old.rebalance.state().moved >= 2)
        # then
        assert time.monotonic() - started >= 0.5
        reply = await admin(made, old, REBALANCE_PATH, RebalanceRequest(bytes_per_s=0), RebalanceReply)
        assert (reply.running, reply.waiting) == (False, 0)

    with_cluster(tmp_path, body)


def test_a_rebalance_fills_missing_replicas(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        home, replica = await add(made, "a"), await add(made, "b")
        file = await homed(made, "a", "b")
        await made.master.mount(msgspec.structs.replace(made.mount, replicas=2))
        await until(lambda: all(w.book.find("m1").mount.replicas == 2 for w in made.workers))
        await made.get(home, file.path())
        await until(lambda: sealed(home, file))
        gone(file)
        assert (await rebalanced(made, home)).moved == 1
        assert sealed(replica, file)
        assert sealed(home, file)

    with_cluster(tmp_path, body)


@pytest.mark.parametrize(("path", "body"), [(DRAIN_PATH, b"{}"), (REBALANCE_PATH, b'{"bytes_per_s": -1}')])
def test_nonsense_is_refused(tmp_path: Path, path: str, body: bytes) -> None:
    async def main(made: Cluster) -> None:
        worker = await add(made, "a")
        reply = await made.client.fetch(worker.server.address, "POST", path, body=body, deadline=Deadline.after(10))
        assert reply.status == 400

    with_cluster(tmp_path, main)
