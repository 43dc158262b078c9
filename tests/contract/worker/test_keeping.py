"""Settings by call, rules of mounts, free, copies in spare room: over the wire, on real workers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from forebay.contracts import Touch, TouchReply, TouchRequest
from forebay.contracts.blocks import COPY_HEADER, FREE_PATH, READ_TYPE_HEADER, SETTINGS_PATH, SOURCE_HEADER, TOUCH_PATH
from forebay.runtime import Deadline
from forebay.testing import run
from forebay_worker.app import Worker
from forebay_worker.policies import POLICIES
from tests.contract.worker.kit import MIB, Cluster, File, cluster, until
from tests.unit.worker.kit import content


def with_cluster(folder: Path, body: Callable[[Cluster], Awaitable[None]]) -> None:
    async def main() -> None:
        async with cluster(folder) as made:
            await body(made)

    run(main(), watchdog_s=60)


async def call(made: Cluster, worker: Worker, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """A call of an administrator."""
    reply = await made.client.fetch(
        worker.server.address,
        method,
        path,
        headers={"content-type": "application/json"},
        body=b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode(),
        deadline=Deadline.after(10),
    )
    return reply.status, json.loads(reply.body)


async def patch(made: Cluster, worker: Worker, **changes: Any) -> dict[str, Any]:
    status, answer = await call(made, worker, "PATCH", SETTINGS_PATH, changes)
    assert status == 200, answer
    return dict(answer["settings"])


def sealed(worker: Worker, file: File) -> bool:
    block = worker.index.get(file.block_id())
    return block is not None and block.state.value == "sealed"


async def cached(made: Cluster, worker: Worker, name: str, size: int = MIB) -> File:
    file = File.write(made.mount, name, content(size, len(name)))
    await made.get(worker, file.path())
    await until(lambda: sealed(worker, file))
    return file


def test_settings_are_shown_changed_and_dated(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1")
        status, before = await call(made, worker, "GET", SETTINGS_PATH)
        assert status == 200
        assert before["settings"]["policy"] == "hold"
        assert before["settings"]["passive_cache"] is False
        status, after = await call(made, worker, "PATCH", SETTINGS_PATH, {"policy": "lru", "reserved_bytes": "1MiB"})
        assert status == 200
        assert (after["settings"]["policy"], after["settings"]["reserved_bytes"]) == ("lru", MIB)
        assert after["since_s"]["policy"] > before["since_s"]["policy"]
        assert after["since_s"]["read_type"] == before["since_s"]["read_type"]
        detail = worker.status().detail
        shown, since = detail["running_settings"], detail["running_settings_since_s"]
        assert isinstance(shown, dict)
        assert isinstance(since, dict)
        assert shown["policy"] == "lru"
        assert since["policy"] == after["since_s"]["policy"]

    with_cluster(tmp_path, body)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"policy": "lru", "surprise": 1}, "surprise"),
        ({"policy": "lru", "reserved_bytes": "-1"}, "reserved_bytes"),
        ({"policy": "lru", "reserved_bytes": "1e30"}, "reserved_bytes"),
        ({"policy": "lru", "reserved_bytes": "10GiB"}, "reserved_bytes"),
        ({"policy": "lru", "mounts": {"m1": {"quota_bytes": -1}}}, "mounts.m1.quota_bytes"),
        (b"{", None),
    ],
)
def test_a_bad_change_is_refused_with_field_and_reason_and_changes_nothing(
    tmp_path: Path, change: Any, field: str | None
) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1")
        before = await call(made, worker, "GET", SETTINGS_PATH)
        status, answer = await call(made, worker, "PATCH", SETTINGS_PATH, change)
        assert (status, answer["code"]) == (400, "invalid_request")
        assert answer["details"].get("field") == field
        assert await call(made, worker, "GET", SETTINGS_PATH) == before

    with_cluster(tmp_path, body)


def test_with_a_token_only_its_bearer_changes_anything(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        token = made.folder / "token"
        token.write_text("0123456789abcdef0123\n")
        worker = await made.add("w1", admin_token_file=token)
        for method, path in (("PATCH", SETTINGS_PATH), ("POST", FREE_PATH)):
            status, answer = await call(made, worker, method, path, {})
            assert (status, answer["code"]) == (401, "unauthenticated")
        assert (await call(made, worker, "GET", SETTINGS_PATH))[0] == 200

    with_cluster(tmp_path, body)


def test_a_policy_changed_while_running_keeps_what_is_here_and_decides_at_once(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1", tier_dirs=(f"SSD:{tmp_path}/w1:10MiB",))
        files = [await cached(made, worker, f"f{number}") for number in range(10)]
        extra = File.write(made.mount, "extra", content(MIB, 99))
        assert (await made.get(worker, extra.path())).headers[SOURCE_HEADER] == "ufs"
        assert worker.metrics.refused.value("held") >= 1
        await patch(made, worker, policy="lru")
        await until(lambda: worker.index.used(0) == 9 * MIB)  # down to the low watermark
        assert worker.metrics.evictions.value("ssd", "lru", "room") == 1
        assert [sealed(worker, file) for file in files] == [False, *[True] * 9]
        await made.get(worker, extra.path())
        await until(lambda: sealed(worker, extra))

    with_cluster(tmp_path, body)


def test_the_scrubber_takes_another_rate_at_once(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1", scrub_rate=0)
        await cached(made, worker, "a")
        assert worker.scrubber.progress[0].passes == 0
        shown = await patch(made, worker, scrub_rate="1GiB")
        assert shown["scrub_rate"] == 1 << 30
        await until(lambda: worker.metrics.scrubbed.value("ssd") == MIB)
        await patch(made, worker, scrub_rate=0)
        assert worker.scrubber.rate == 0

    with_cluster(tmp_path, body)


def test_the_read_type_of_requests_that_say_nothing_can_be_changed(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1")
        await patch(made, worker, read_type="NO_CACHE")
        file = File.write(made.mount, "a", content(MIB))
        await made.get(worker, file.path())
        assert worker.index.get(file.block_id()) is None
        await made.get(worker, file.path(), {READ_TYPE_HEADER: "CACHE"})
        await until(lambda: sealed(worker, file))

    with_cluster(tmp_path, body)


def test_passive_caching_is_off_until_it_is_switched_on(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        home, entry = await made.add("a"), await made.add("b")
        file = await homed(made, "a")
        for _ in range(2):
            await made.get(entry, file.path())
        await until(lambda: sealed(home, file))
        assert entry.index.get(file.block_id()) is None
        await patch(made, entry, passive_cache=True)
        await made.get(entry, file.path())
        await until(lambda: sealed(entry, file))

    with_cluster(tmp_path, body)


async def mapped(made: Cluster) -> None:
    count = len(made.workers)
    await until(lambda: all(len(w.homes.owners("0" * 32, count)) == count for w in made.workers))


async def homed(made: Cluster, name: str) -> File:
    """A file whose block has this home, once all workers see each other."""
    await mapped(made)
    for number in range(200):
        file = File.write(made.mount, f"shard {number}", content(MIB, number))
        if made.workers[0].homes.owners(file.block_id(), 1)[0].member_id == name:
            return file
    raise AssertionError("no such home")


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_copies_in_spare_room_stop_at_the_reserved_bytes_and_evict_nothing(tmp_path: Path, policy: str) -> None:
    async def body(made: Cluster) -> None:
        home = await made.add("a", capacity_weight=1.0)
        entry = await made.add("b", capacity_weight=1.0, policy=policy, tier_dirs=(f"SSD:{tmp_path}/small:8MiB",))
        await patch(made, entry, reserved_bytes=3 * MIB)
        await mapped(made)
        by_home: dict[str, list[File]] = {"a": [], "b": []}
        for number in range(400):
            file = File.write(made.mount, f"f{number}", content(MIB, number))
            by_home[entry.homes.owners(file.block_id(), 1)[0].member_id].append(file)
            if len(by_home["a"]) >= 20 and len(by_home["b"]) >= 2:
                break
        files, own = by_home["a"][:20], by_home["b"][:2]
        for file in own:
            await made.get(entry, file.path())
            await until(partial(sealed, entry, file))
        # when: the same 20 blocks of another home are read through it, twice
        for file in files * 2:
            reply = await made.get(entry, file.path(), {COPY_HEADER: "spare"})
            assert len(reply.body) == MIB
            await until(lambda: len(entry.filler) == 0)
        # then: it holds what fits beyond the reserved bytes, and nothing was evicted for them
        assert sum(sealed(entry, file) for file in files) == 3
        assert entry.metrics.refused.value("reserved") == 34
        assert all(sealed(entry, file) for file in own)
        assert entry.index.used(0) == 5 * MIB
        figures = (await made.get(entry, "/metrics")).body.decode()
        assert "forebay_worker_evictions_total{" not in figures
        assert "forebay_worker_evicted_bytes_total{" not in figures
        assert all(sealed(home, file) for file in files)
        status, answer = await call(made, entry, "GET", files[0].path())
        assert status == 401, answer

    with_cluster(tmp_path, body)


def test_a_copy_header_that_says_something_else_is_refused(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1")
        file = File.write(made.mount, "a", content(MIB))
        assert (await made.get(worker, file.path(), {COPY_HEADER: "yes"})).status == 400

    with_cluster(tmp_path, body)


def test_a_mount_keeps_to_its_quota_and_leaves_by_its_ttl(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1")
        await made.master.mount(msgspec.structs.replace(made.mount, quota_bytes=2 * MIB))
        await until(lambda: worker.ledger.of("m1").quota_bytes == 2 * MIB)
        files = [File.write(made.mount, f"f{number}", content(MIB, number)) for number in range(4)]
        for file in files:
            assert len((await made.get(worker, file.path())).body) == MIB
            await until(lambda: len(worker.filler) == 0)
        assert [sealed(worker, file) for file in files] == [True, True, False, False]
        assert worker.metrics.refused.value("quota") == 2
        await patch(made, worker, mounts={"m1": {"quota_bytes": MIB}})
        await worker.keeping.sweep()
        assert sum(sealed(worker, file) for file in files) == 1
        assert worker.metrics.evictions.value("ssd", "hold", "quota") == 1
        await patch(made, worker, mounts={"m1": {"ttl_s": 0.001}})
        await until(lambda: not any(sealed(worker, file) for file in files))
        assert worker.metrics.evictions.value("ssd", "hold", "ttl") == 1

    with_cluster(tmp_path, body)


def test_a_pinned_mount_is_never_evicted_and_freed_by_force_only(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1", policy="lru", tier_dirs=(f"SSD:{tmp_path}/w1:4MiB",))
        await made.master.mount(msgspec.structs.replace(made.mount, pin=True))
        await until(lambda: worker.ledger.of("m1").is_pinned)
        files = [await cached(made, worker, f"f{number}") for number in range(4)]
        extra = File.write(made.mount, "extra", content(MIB, 9))
        for _ in range(3):
            await made.get(worker, extra.path())
            await worker.store.make_room()
        assert all(sealed(worker, file) for file in files)
        status, answer = await call(made, worker, "POST", FREE_PATH, {"mount_id": "m1"})
        assert (status, answer["freed_blocks"], answer["pinned_blocks"]) == (200, 0, 4)
        status, answer = await call(made, worker, "POST", FREE_PATH, {"mount_id": "m1", "force": True})
        assert (answer["freed_blocks"], answer["freed_bytes"]) == (4, 4 * MIB)
        assert not any(sealed(worker, file) for file in files)
        assert worker.metrics.evictions.value("ssd", "lru", "freed") == 4

    with_cluster(tmp_path, body)


def test_blocks_are_freed_by_mount_by_path_and_by_idle_time(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1")
        names = ("train/a", "train/deep/b", "val/c", "top")
        files = {name: await cached(made, worker, name) for name in names}
        status, answer = await call(made, worker, "POST", FREE_PATH, {"path": "/train", "idle_s": 3600})
        assert (status, answer["freed_blocks"]) == (200, 0)
        status, answer = await call(made, worker, "POST", FREE_PATH, {"path": "/train"})
        assert (status, answer["freed_blocks"]) == (200, 2)
        assert {name for name in names if sealed(worker, files[name])} == {"val/c", "top"}
        status, answer = await call(made, worker, "POST", FREE_PATH, {"path": "/val/c", "mount_id": "m1"})
        assert (status, answer["freed_blocks"]) == (200, 1)
        status, answer = await call(made, worker, "POST", FREE_PATH, {"idle_s": 0})
        assert (status, answer["freed_blocks"]) == (200, 1)

    with_cluster(tmp_path, body)


def test_a_free_by_path_takes_older_versions_along(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1")
        # given: a file that was replaced since, one that was replaced and read again, and one beside them
        replaced, again = await cached(made, worker, "train/a", 3 * MIB), await cached(made, worker, "train/b")
        beside = await cached(made, worker, "val/c")
        File.write(made.mount, "train/a", b"shorter")
        newer = File.write(made.mount, "train/b", content(MIB, 77))
        await made.get(worker, newer.path())
        await until(lambda: sealed(worker, newer))
        assert all(sealed(worker, file) for file in (replaced, again, beside))
        _, answer = await call(made, worker, "POST", FREE_PATH, {"path": "/train"})
        assert answer["freed_blocks"] == 3
        assert [sealed(worker, file) for file in (replaced, again, newer, beside)] == [False, False, False, True]

    with_cluster(tmp_path, body)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"force": True}, 400),
        ({"mount_id": "other"}, 404),
        ({"path": "/nowhere"}, 404),
        ({"idle_s": -1}, 400),
        ({"surprise": 1}, 400),
    ],
)
def test_a_free_that_names_nothing_known_frees_nothing(tmp_path: Path, body: Any, status: int) -> None:
    async def scene(made: Cluster) -> None:
        worker = await made.add("w1")
        file = await cached(made, worker, "a")
        assert (await call(made, worker, "POST", FREE_PATH, body))[0] == status
        assert sealed(worker, file)

    with_cluster(tmp_path, scene)


def test_a_block_that_is_being_read_is_told_of_and_goes_first_later(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1")
        file = await cached(made, worker, "a")
        block = worker.index.get(file.block_id())
        assert block is not None
        worker.index.lease(block)
        _, answer = await call(made, worker, "POST", FREE_PATH, {"mount_id": "m1"})
        assert (answer["freed_blocks"], answer["busy_blocks"]) == (0, 1)
        worker.index.release(block)
        victims = worker.policies[0].victims(1, 0.0, busy=lambda block: False)
        assert victims == [file.block_id()]

    with_cluster(tmp_path, body)


def test_the_block_of_an_older_version_goes_first_once_the_newer_one_is_asked_for(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1", tier_dirs=(f"SSD:{tmp_path}/w1:4MiB",))
        files = [await cached(made, worker, f"f{number}") for number in range(4)]
        newer = File.write(made.mount, "f2", content(MIB, 77))
        assert newer.block_id() != files[2].block_id()
        assert (await made.get(worker, newer.path())).body == content(MIB, 77)
        await until(lambda: worker.index.get(files[2].block_id()) is None)
        assert all(sealed(worker, files[number]) for number in (0, 1, 3))
        await made.get(worker, newer.path())
        await until(lambda: sealed(worker, newer))

    with_cluster(tmp_path, body)


def test_a_dataset_read_only_past_the_worker_is_not_idle(tmp_path: Path) -> None:
    async def body(made: Cluster) -> None:
        worker = await made.add("w1", idle_ttl_s=0.5, tier_dirs=(f"SSD:{tmp_path}/w1:4MiB",))
        other = msgspec.structs.replace(made.mount, mount_id="m2", path="/two")
        await made.master.mount(made.mount, other)
        await until(lambda: len(worker.book) == 2)
        files = [await cached(made, worker, f"f{number}") for number in range(4)]
        report = TouchRequest(touches=(Touch(block_id=files[0].block_id(), opens=1, read_bytes=MIB),))
        address = worker.server.address
        deadline = Deadline.after(1.5)  # three times the time to live, touched all along
        strangers = itertools.count()
        while not deadline.expired:
            await made.client.call(address, TOUCH_PATH, report, TouchReply, deadline=Deadline.after(5))
            admission = worker.policies[0].admit(f"{next(strangers):032x}", MIB, "m2", worker.store.now_s())
            assert admission.reason == "held"
        # and left alone for as long, it makes room
        idle = worker.policies[0].admit("f" * 32, MIB, "m2", worker.store.now_s() + 2.0)
        assert idle.evict_bytes > 0

    with_cluster(tmp_path, body)
