"""Workers among each other: who is asked for a block that is not here, and who keeps a copy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from forebay.contracts.blocks import HOP_HEADER, OFFERED_HEADER, ONLY_IF_CACHED, SOURCE_HEADER
from forebay.testing import run
from forebay_worker.app import Worker
from tests.contract.worker.kit import MIB, Cluster, File, cluster, until
from tests.unit.worker.kit import content

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


def gone(file: File) -> None:
    """The under store loses the file: from here on its bytes come from workers or not at all."""
    (Path(file.mount.ufs_uri.removeprefix("file://")) / file.key).unlink()


def test_a_newcomer_takes_its_blocks_from_their_former_home_and_not_from_the_under_store(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        old = await made.add("old")
        all_files = files(made)
        for file in all_files:
            assert (await made.get(old, file.path())).body == DATA
        new = await made.add("new")
        taken = [file for file in all_files if ranking(new, file)[0] == "new"]
        assert taken
        for file in taken:
            gone(file)
            reply = await made.get(new, file.path(), {"range": f"bytes=0-{MIB - 1}"})
            assert (reply.status, reply.body) == (206, DATA[:MIB])
            # read from its start, it is completed in the background, from the same place
            await until(lambda file=file: sealed(new, file))  # type: ignore[misc]  # bound now
            assert (await made.get(new, file.path())).body == DATA

    with_cluster(tmp_path, body)


def test_a_block_that_nobody_holds_is_filled_from_the_under_store_after_the_probes(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        first, second = await made.add("a"), await made.add("b")
        file = await homed(made, "a", "b")
        reply = await made.get(first, file.path())
        assert (reply.body, reply.headers[SOURCE_HEADER]) == (DATA, "ufs")
        assert second.index.get(file.block_id()) is None  # the probe caused nothing there

    with_cluster(tmp_path, body)


def test_an_entry_worker_reads_through_the_home_and_keeps_no_copy(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        home, entry = await made.add("a"), await made.add("b")
        file = await homed(made, "a", "b")
        for _ in range(3):
            assert (await made.get(entry, file.path())).body == DATA
        assert entry.index.get(file.block_id()) is None
        await until(lambda: sealed(home, file))

    with_cluster(tmp_path, body)


def test_a_replica_is_filled_by_the_second_read(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        home, replica = await made.add("a"), await made.add("b")
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
        full = await made.add("a", tier_dirs=(f"SSD:{made.folder / 'small'}:4MiB",), capacity_weight=1.0)
        second = await made.add("b", capacity_weight=1.0)
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
        await made.add("a")
        await made.add("b")
        await made.master.mount(msgspec.structs.replace(made.mount, replicas=replicas))
        file = await homed(made, "a", "b")
        for worker in made.workers:
            assert (await made.get(worker, file.path(), ONLY)).status == 504
        assert all(w.index.get(file.block_id()) is None for w in made.workers)

    with_cluster(tmp_path, body)
