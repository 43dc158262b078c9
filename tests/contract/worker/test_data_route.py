"""The data route of a worker over the real transport, with a folder as under store."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from forebay.contracts import ErrorReply, Touch, TouchReply, TouchRequest, decode
from forebay.contracts.blocks import TOUCH_PATH
from forebay.contracts.tickets import KeyRing, TicketClaims, sign
from forebay.errors import PeerUnavailable, StaleVersion
from forebay.runtime import Deadline
from forebay.testing import run
from forebay.transport import Reply
from forebay_worker.app import Worker
from tests.contract.worker.kit import CLUSTER, MIB, Cluster, File, cluster, file_mount, ticket, until
from tests.unit.worker.kit import content


def refused(reply: Reply) -> tuple[int, str]:
    return reply.status, decode(ErrorReply, reply.body).code


def blocks(worker: Worker, suffix: str = "blk") -> int:
    return len(list(worker.tiers[0].spec.path.glob(f"??/*.{suffix}")))


def served(worker: Worker, source: str) -> float:
    return worker.metrics.served.value(source)


def test_a_block_is_served_cold_and_then_warm(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            data = content(9 * MIB)
            file = File.write(c.mount, "train/a b.rec", data)
            cold = await c.get(worker, file.path())
            assert (cold.status, cold.body == data) == (200, True)
            assert cold.headers["forebay-source"] == "ufs"
            assert cold.headers["content-range"] == f"bytes 0-{9 * MIB - 1}/{9 * MIB}"
            await until(lambda: blocks(worker) == 1)
            warm = await c.get(worker, file.path(), {"range": "bytes=5-8999999"})
            assert (warm.status, warm.body == data[5:9_000_000]) == (206, True)
            assert warm.headers["forebay-source"] == "ssd"
            assert 0 < float(warm.headers["forebay-serving-weight"]) <= 1

    run(main())


def test_memory_is_served_from_its_mapping(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            folder = Path("/dev/shm") / f"forebay-test-{os.getpid()}"
            try:
                worker = await c.add("w1", tier_dirs=(f"MEM:{folder}:64MiB",))
                data = content(17 * MIB)
                file = File.write(c.mount, "a", data)
                assert (await c.get(worker, file.path(0))).body == data[: 16 * MIB]
                assert (await c.get(worker, file.path(1))).body == data[16 * MIB :]
                await until(lambda: blocks(worker) == 2)
                reply = await c.get(worker, file.path(0), {"range": f"bytes={MIB}-{3 * MIB - 1}"})
                assert reply.body == data[MIB : 3 * MIB]
                assert reply.headers["forebay-source"] == "mem"
                assert served(worker, "mem") == 2 * MIB
            finally:
                for path in sorted(folder.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
                folder.rmdir()

    run(main())


def test_a_bulk_read_lands_in_the_callers_buffer(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            data = content(5 * MIB)
            file = File.write(c.mount, "a", data)
            buffer = memoryview(bytearray(MIB))
            headers = {"range": f"bytes={4 * MIB}-{5 * MIB - 1}", "forebay-ticket": ticket()}
            reply = await c.client.read_into(
                worker.server.address, file.path(), buffer, deadline=Deadline.after(10), headers=headers
            )
            assert (reply.status, reply.length, bytes(buffer) == data[4 * MIB :]) == (206, MIB, True)

    run(main())


OTHER_RING = KeyRing((("k1", b"another secret!!"),))


@pytest.mark.parametrize(
    ("claims", "answer"),
    [
        ({"expires_at_s": 1.0}, (401, "ticket_expired")),
        ({"cluster": "other"}, (403, "ticket_wrong_cluster")),
        ({"mount_id": "m2"}, (403, "permission_denied")),
        ({"prefix": "eval"}, (403, "ticket_out_of_prefix")),
        ({"prefix": "tra"}, (403, "ticket_out_of_prefix")),
        ({"rights": ""}, (403, "permission_denied")),
        ({"prefix": "train"}, (200, "")),
        ({"prefix": "train/a"}, (200, "")),
    ],
)
def test_a_ticket_opens_what_it_names_and_nothing_else(
    tmp_path: Path, claims: Mapping[str, Any], answer: tuple[int, str]
) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            file = File.write(c.mount, "train/a", b"hello")
            reply = await c.get(worker, file.path(), {"forebay-ticket": ticket(**claims)})
            assert (refused(reply) if reply.status != 200 else (200, "")) == answer

    run(main())


def test_no_ticket_or_a_forged_one_is_refused_however_often_the_good_one_was_used(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            file = File.write(c.mount, "a", b"hello")
            assert (await c.get(worker, file.path())).body == b"hello"
            good = ticket()
            claims = TicketClaims(
                cluster=CLUSTER, mount_id="m1", generation=1, prefix="", client="x", rights="r", expires_at_s=9e9
            )
            for wrong, code in (
                ("", "unauthenticated"),
                ("v1.k1.x.y", "unauthenticated"),
                (good[:-4] + "AAAA", "ticket_forged"),
                (sign(OTHER_RING, claims), "ticket_forged"),
                (good.replace("v1.k1", "v1.k2"), "unauthenticated"),
            ):
                assert refused(await c.get(worker, file.path(), {"forebay-ticket": wrong})) == (401, code)

    run(main())


@pytest.mark.parametrize(
    ("lie", "answer"),
    [
        ({"key": "b"}, (400, "invalid_request")),
        ({"key": "../a"}, (400, "invalid_request")),
        ({"fingerprint": "other"}, (400, "invalid_request")),
        ({"index": 1}, (400, "invalid_request")),
        ({"size": 0}, (400, "invalid_request")),
        ({"size": 4}, (412, "stale_version")),
        ({"size": 6}, (412, "stale_version")),
        ({"mount_id": "m9"}, (403, "permission_denied")),
    ],
)
def test_a_lie_about_the_target_is_found_out(tmp_path: Path, lie: Mapping[str, Any], answer: tuple[int, str]) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            file = File.write(c.mount, "a", b"hello")
            assert refused(await c.get(worker, file.path(**lie))) == answer
            assert (await c.get(worker, file.path())).body == b"hello"
            assert refused(await c.get(worker, file.path(**lie))) == answer

    run(main())


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({"range": "bytes=0-"}, (400, "invalid_request")),
        ({"range": "bytes=0-5"}, (416, "range_not_satisfiable")),
        ({"range": "bytes=5-5"}, (416, "range_not_satisfiable")),
        ({"range": f"bytes=0-{1 << 64}"}, (400, "invalid_request")),
        ({"range": f"bytes={1 << 64}-{1 << 65}"}, (400, "invalid_request")),
        ({"range": f"bytes=0-{'9' * 5000}"}, (400, "invalid_request")),
        ({"range": "bytes=3-1"}, (416, "range_not_satisfiable")),
        ({"range": "bytes=-1-3"}, (400, "invalid_request")),
        ({"range": "bytes=-3"}, (400, "invalid_request")),
        ({"range": "bytes=0-1,3-4"}, (400, "invalid_request")),
        ({"range": "bytes=0x0-0x1"}, (400, "invalid_request")),
        ({"range": "bytes=\u0661-\u0662"}, (400, "invalid_request")),
        ({"range": "items=0-1"}, (400, "invalid_request")),
        ({"forebay-hop": "2"}, (400, "invalid_request")),
        ({"forebay-read-type": "MAYBE"}, (400, "invalid_request")),
        ({"cache-control": "only-if-cached"}, (504, "not_cached")),
    ],
)
def test_a_header_that_makes_no_sense_is_an_error(
    tmp_path: Path, headers: Mapping[str, str], answer: tuple[int, str]
) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            file = File.write(c.mount, "a", b"hello")
            assert refused(await c.get(worker, file.path(), headers)) == answer
            assert worker.routes.in_flight == 0

    run(main())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda name: name[:-1],
        lambda name: name + "0",
        lambda name: name.upper(),
        lambda name: "g" * 32,
        lambda name: "0" * 32,
        lambda name: f"0x{name[2:]}",
        lambda name: "..%2F..%2Fnonce",
        lambda name: f"{name}.blk",
        lambda name: "%00" + name[1:],
        lambda name: "9" * 4000,
    ],
)
def test_a_block_id_that_is_none_or_of_another_block_is_refused(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            file = File.write(c.mount, "a", b"hello")
            path = file.path().replace(file.block_id(), spoil(file.block_id()))
            assert refused(await c.get(worker, path)) == (400, "invalid_request")
            assert len(worker.index) == 0
            assert (await c.get(worker, file.path())).body == b"hello"

    run(main())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size=5", "size=-5"),
        ("size=5", f"size={1 << 64}"),
        ("size=5", "size=5e0"),
        ("size=5", "size="),
        ("size=5", "size=" + "9" * 3000),
        ("size=5&", ""),
        ("index=0", "index=-1"),
        ("index=0", f"index={1 << 63}"),
        ("index=0", "index=0&index=0"),
        ("index=0", "index=0&offset=3"),
        ("mount_id=m1", "mount_id="),
        ("key=a", "key=%ff"),
    ],
)
def test_a_target_with_a_number_that_cannot_be_is_refused(tmp_path: Path, old: str, new: str) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            path = File.write(c.mount, "a", b"hello").path()
            assert old in path
            assert refused(await c.get(worker, path.replace(old, new))) == (400, "invalid_request")
            assert len(worker.index) == 0

    run(main())


@pytest.mark.parametrize("name", ["", "x", "A" * 32, "0" * 31, "../" + "0" * 29])
def test_a_touch_of_what_is_no_block_id_is_refused_as_a_whole(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            touches = [
                {"block_id": "0" * 32, "opens": 1, "read_bytes": 1},
                {"block_id": name, "opens": 1, "read_bytes": 1},
            ]
            reply = await c.client.fetch(
                worker.server.address,
                "POST",
                TOUCH_PATH,
                headers={"content-type": "application/json"},
                body=json.dumps({"touches": touches}).encode(),
                deadline=Deadline.after(10),
            )
            assert refused(reply) == (400, "invalid_request")
            assert worker.metrics.touches.value("false") == 0

    run(main())


def test_what_the_under_store_says_reaches_the_client_as_its_status(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            gone, replaced = File.write(c.mount, "gone", b"x"), File.write(c.mount, "replaced", b"old")
            (tmp_path / "data/gone").unlink()
            File.write(c.mount, "replaced", b"newer")
            assert refused(await c.get(worker, gone.path())) == (404, "not_found")
            assert refused(await c.get(worker, replaced.path())) == (412, "stale_version")
            await until(lambda: len(worker.index) == 0)

    run(main())


def test_no_cache_keeps_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            data = content(5 * MIB)
            file = File.write(c.mount, "a", data)
            reply = await c.get(worker, file.path(), {"forebay-read-type": "NO_CACHE"})
            assert reply.body == data
            assert reply.headers["forebay-source"] == "ufs"
            assert len(worker.index) == 0

    run(main())


def test_a_mount_that_comes_later_is_known_at_its_first_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            (tmp_path / "data/deep").mkdir()
            later = file_mount(tmp_path / "data/deep", mount_id="m2")
            file = File.write(later, "a", b"hello")
            reading = asyncio.ensure_future(c.get(worker, file.path(), {"forebay-ticket": ticket(mount_id="m2")}))
            await asyncio.sleep(0.05)
            await c.master.mount(c.mount, later)
            assert (await reading).body == b"hello"

    run(main())


def test_a_mount_outside_the_allowed_roots_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            (tmp_path / "secret").mkdir()
            wrong = file_mount(tmp_path / "secret", mount_id="m2")
            file = File.write(wrong, "a", b"hello")
            await c.master.mount(c.mount, wrong)
            reply = await c.get(worker, file.path(), {"forebay-ticket": ticket(mount_id="m2")})
            assert refused(reply) == (403, "permission_denied")

    run(main())


def test_a_ticket_of_an_earlier_generation_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            file = File.write(c.mount, "a", b"hello")
            assert (await c.get(worker, file.path())).status == 200
            await c.master.mount(file_mount(tmp_path / "data", generation=2))
            await until(lambda: worker.book.revision == c.master.table.revision)
            assert refused(await c.get(worker, file.path())) == (403, "permission_denied")
            newer = {"forebay-ticket": ticket(generation=2)}
            assert (await c.get(worker, file.path(), newer)).body == b"hello"

    run(main())


def test_without_a_master_the_last_good_mounts_serve_on_and_expired_tickets_have_grace(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            file = File.write(c.mount, "a", b"hello")
            old = {"forebay-ticket": ticket(expires_at_s=time.time() - 1000)}
            assert refused(await c.get(worker, file.path(), old)) == (401, "ticket_expired")
            await c.master.server.close()
            await until(lambda: not worker.watch.sees_master)
            assert (await c.get(worker, file.path())).body == b"hello"
            assert (await c.get(worker, file.path(), old)).body == b"hello"

    run(main())


def test_touches_count_and_keep_a_block_young(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1", policy="lru", tier_dirs=(f"SSD:{tmp_path}/w1:10MiB",))
            files = [File.write(c.mount, name, content(4 * MIB, seed)) for seed, name in enumerate("abc")]
            for file in files[:2]:
                await c.get(worker, file.path())
                await until(lambda: len(worker.filler) == 0)
            touches = (
                Touch(block_id=files[0].block_id(), opens=3, read_bytes=MIB),
                Touch(block_id="0" * 32, opens=1, read_bytes=0),
            )
            report = TouchRequest(touches=touches)
            reply = await c.client.call(
                worker.server.address, "/v1/blocks:touch", report, TouchReply, deadline=Deadline.after(5)
            )
            assert (reply.known, reply.unknown) == (1, 1)
            assert worker.metrics.hits.value("local") == 3
            await c.get(worker, files[2].path())
            await until(lambda: worker.index.get(files[1].block_id()) is None)
            assert worker.index.get(files[0].block_id()) is not None

    run(main())


def test_status_metrics_and_readiness_tell_what_is_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            await c.get(worker, File.write(c.mount, "a", b"hello").path())
            assert (await c.get(worker, "/readyz")).status == 200
            metrics = (await c.get(worker, "/metrics")).body.decode()
            assert 'forebay_worker_served_bytes_total{source="ufs"} 5.0' in metrics
            assert "forebay_worker_in_flight 0.0" in metrics
            status = (await c.get(worker, "/v1/status")).body.decode()
            assert '"mounts":1' in status
            assert ticket()[:20] not in status

    run(main())


# -- two workers


async def pair(c: Cluster, *, passive: bool) -> tuple[Worker, Worker]:
    return await c.add("w1", passive_cache=passive), await c.add("w2", passive_cache=passive)


def homes(c: Cluster, file: File, first: Worker, second: Worker) -> tuple[Worker, Worker]:
    """The block's home, and the other worker."""
    return (first, second) if second.homes.upstream(file.block_id()).home is not None else (second, first)


@pytest.mark.parametrize("passive", [False, True])
def test_an_entry_worker_reads_through_the_home_and_keeps_a_copy_only_if_told(tmp_path: Path, passive: bool) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            data = content(9 * MIB)
            file = File.write(c.mount, "a", data)
            home, entry = homes(c, file, *await pair(c, passive=passive))
            reply = await c.get(entry, file.path())
            assert reply.body == data
            assert reply.headers["forebay-source"] == "peer"
            await until(lambda: blocks(home) == 1)
            assert home.metrics.filled.value("ufs") == len(data)
            assert served(entry, "peer") == len(data)
            if passive:
                await until(lambda: blocks(entry) == 1)
            again = await c.get(entry, file.path(), {"range": f"bytes=7-{6 * MIB}"})
            assert again.body == data[7 : 6 * MIB + 1]
            assert again.headers["forebay-source"] == ("ssd" if passive else "peer")
            assert blocks(entry) == int(passive)

    run(main())


def test_a_hop_is_never_forwarded(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            file = File.write(c.mount, "a", b"hello")
            home, entry = homes(c, file, *await pair(c, passive=False))
            reply = await c.get(entry, file.path(), {"forebay-hop": "1"})
            assert reply.body == b"hello"
            assert reply.headers["forebay-source"] == "ufs"
            assert len(home.index) == 0

    run(main())


def test_a_hop_carries_the_checksums_of_whole_extents(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            file = File.write(c.mount, "a", content(9 * MIB))
            await c.get(worker, file.path())
            await until(lambda: blocks(worker) == 1)
            whole = {"forebay-hop": "1", "range": f"bytes={4 * MIB}-{9 * MIB - 1}"}
            assert (await c.get(worker, file.path(), whole)).headers["forebay-crc32c"].count(",") == 1
            part = {"forebay-hop": "1", "range": f"bytes=1-{9 * MIB - 1}"}
            assert "forebay-crc32c" not in (await c.get(worker, file.path(), part)).headers

    run(main())


def test_what_the_home_says_about_the_file_is_final(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            file = File.write(c.mount, "a", b"hello")
            home, entry = homes(c, file, *await pair(c, passive=False))
            File.write(c.mount, "a", b"other!")
            assert refused(await c.get(entry, file.path())) == (412, "stale_version")
            assert entry.homes.upstream(file.block_id()).home is not None
            await until(lambda: len(home.index) == 0)

    run(main())


def test_when_the_home_is_away_the_entry_worker_fills_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            data = content(5 * MIB)
            file = File.write(c.mount, "a", data)
            home, entry = homes(c, file, *await pair(c, passive=False))
            await home.server.close()
            reply = await c.get(entry, file.path())
            assert reply.body == data
            assert entry.homes.upstream(file.block_id()).home is None
            assert (await c.get(entry, file.path())).body == data
            await until(lambda: blocks(entry) == 1)

    run(main())


def test_a_body_that_cannot_be_finished_is_cut_off_and_never_padded(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1", fill_streams=1, fill_tuning=False)
            data = content(16 * MIB)
            file = File.write(c.mount, "a", data)
            await c.get(worker, file.path(), {"range": "bytes=0-9"})
            await until(lambda: len(worker.filler) == 0)
            first = await c.get(worker, file.path(), {"range": "bytes=0-4194303"})
            assert first.body == data[: 4 * MIB]

            worker.index.validate()
            other = File.write(c.mount, "b", data)
            await c.get(worker, other.path(), {"range": "bytes=4194304-4194310"})
            File.write(c.mount, "b", content(16 * MIB, 1))
            buffer = memoryview(bytearray(8 * MIB))
            headers = {"range": f"bytes={4 * MIB}-{12 * MIB - 1}", "forebay-ticket": ticket()}
            with pytest.raises((StaleVersion, PeerUnavailable)):
                await c.client.read_into(
                    worker.server.address, other.path(), buffer, deadline=Deadline.after(10), headers=headers
                )
            assert worker.routes.in_flight == 0

    run(main())


@pytest.mark.parametrize("limits", [{"ufs_bytes_per_s": 8 * MIB}, {"mount_bytes_per_s": 8 * MIB}])
def test_no_more_is_asked_of_the_under_store_than_the_worker_and_its_mounts_may(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1", **limits)
            data = content(12 * MIB)
            file, began_s = File.write(c.mount, "a", data), time.monotonic()
            assert (await c.get(worker, file.path())).body == data
            # then: the last of three extents goes out when the first two are paid for, less what a burst may
            assert time.monotonic() - began_s >= 0.7

    run(main())


@pytest.mark.parametrize("limits", [{"ufs_requests_per_s": 4.0}, {"mount_requests_per_s": 4.0}])
def test_no_more_requests_go_to_the_under_store_than_the_worker_and_its_mounts_may(
    tmp_path: Path, limits: dict[str, float]
) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1", **limits)
            data = content(1000)
            files, began_s = [File.write(c.mount, f"f{n}", data) for n in range(5)], time.monotonic()
            replies = await asyncio.gather(*[c.get(worker, file.path()) for file in files])
            assert [reply.body for reply in replies] == [data] * 5
            assert time.monotonic() - began_s >= 0.7

    run(main())


def test_a_reader_that_hangs_up_frees_the_block(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            file = File.write(c.mount, "a", content(16 * MIB))
            reading = asyncio.ensure_future(c.get(worker, file.path()))
            await until(lambda: worker.routes.in_flight == 1)
            reading.cancel()
            await until(lambda: worker.routes.in_flight == 0)
            await until(lambda: len(worker.filler) == 0)
            assert all(block.leases == 0 and block.busy == 0 for block in worker.index)

    run(main())


def test_plain_http_1_reads_the_same_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c, aiohttp.ClientSession() as session:
            worker = await c.add("w1")
            data = content(9 * MIB)
            file = File.write(c.mount, "a b", data)
            url = URL(f"http://{worker.server.address}{file.path()}", encoded=True)
            for _ in range(2):
                async with session.get(url, headers={"forebay-ticket": ticket()}) as reply:
                    assert (reply.status, await reply.read() == data) == (200, True)
            async with session.get(url, headers={"forebay-ticket": ticket(), "range": "bytes=0-0"}) as reply:
                assert (reply.status, await reply.read()) == (206, data[:1])
            async with session.get(url) as reply:
                assert reply.status == 401

    run(main())
