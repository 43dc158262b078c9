"""Fills from S3 servers that are wrong, gone, lying or changing: each has its error, and no wrong byte is kept."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from forebay.contracts import UfsOptions
from forebay.errors import ForebayError, NotFound, StaleVersion, UfsDenied, UfsError, UfsUnavailable
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.s3 import ACCESS_KEY, SECRET_KEY, AwkwardS3, S3Server
from forebay.ufs import Credentials, Ufs, UfsFile, UfsLimits, UfsUri, open_ufs
from forebay_worker.access import Asked
from forebay_worker.sources import UfsSource
from tests.integration.ufs.scripted import Asked as Request
from tests.integration.ufs.scripted import Reply, scripted
from tests.unit.worker.kit import BLOCK_SIZE, MIB, Kit, asked_for, content, kit, memory_dir

QUICK = UfsLimits(connect_timeout_s=2.0, silence_timeout_s=2.0, request_timeout_s=5.0, attempts_max=1)
RIGHT = Credentials(ACCESS_KEY, SECRET_KEY)
EXTENT = 4 * MIB
OLD, NEW = content(BLOCK_SIZE, 1), content(BLOCK_SIZE, 2)
SMALL = content(100 << 10, 3)
"""Of a file that is fetched, written and sealed in one go."""


@pytest.fixture
def mem() -> Iterator[Path]:
    with memory_dir() as path:
        yield path


@asynccontextmanager
async def source_at(endpoint: str, bucket: str, credentials: Credentials = RIGHT) -> AsyncIterator[Ufs]:
    """The under store at that endpoint."""
    options = UfsOptions(endpoint=endpoint, path_style=True, region="us-east-1")
    uri = UfsUri.parse(f"s3://{bucket}/p")
    ufs = await open_ufs(uri, options, telemetry=quiet(), credentials=credentials, limits=QUICK)
    try:
        yield ufs
    finally:
        await ufs.close()


def from_s3(ufs: Ufs, asked: Asked) -> UfsSource:
    """The block of ``asked`` in that under store."""

    async def opened() -> Ufs:
        return ufs

    target = asked.target
    return UfsSource(opened, target.key, target.size, target.fingerprint, asked.offset, is_atomic=True)


def file_of(body: bytes, fingerprint: str | None = None) -> UfsFile:
    """``x`` as a listing would have shown it."""
    return UfsFile("x", len(body), 0, fingerprint or hashlib.md5(body, usedforsecurity=False).hexdigest())


async def refused(parts: Kit, ufs: Ufs, file: UfsFile, error: type[ForebayError]) -> ForebayError:
    """Reads the file's first block; it must fail so, and nothing of it may stay."""
    asked = asked_for(file)
    with pytest.raises(error) as caught:
        await parts.read(asked, source=from_s3(ufs, asked))
    assert type(caught.value) is error
    assert parts.sealed() == 0
    return caught.value


def test_an_endpoint_that_resolves_to_nothing_is_unavailable(mem: Path) -> None:
    async def main() -> None:
        async with (
            kit(("MEM", mem, 64 * MIB)) as parts,
            source_at("http://nobody.forebay.invalid:9", "bucket") as ufs,
        ):
            error = await refused(parts, ufs, file_of(OLD), UfsUnavailable)
            assert "cannot be reached" in error.message

    run(main())


@pytest.mark.s3
def test_wrong_keys_are_denied(mem: Path, s3_server: S3Server) -> None:
    bucket = f"keys-{uuid.uuid4().hex[:8]}"
    s3_server.make_bucket(bucket)
    s3_server.put(bucket, "p/x", OLD)

    async def main() -> None:
        for wrong in (Credentials("nobody", SECRET_KEY), Credentials(ACCESS_KEY, "wrong")):
            async with kit(("MEM", mem, 64 * MIB)) as parts, source_at(s3_server.endpoint, bucket, wrong) as ufs:
                error = await refused(parts, ufs, file_of(OLD), UfsDenied)
                assert "credentials" in error.message

    run(main())


@dataclass(frozen=True)
class Server:
    """A real server: its endpoint, how objects get there, and how the bucket goes."""

    endpoint: str
    bucket: str
    put: Callable[[bytes], None]
    vanish: Callable[[], None]


@pytest.fixture(params=["SeaweedFS", "rclone"])
def server(request: pytest.FixtureRequest) -> Server:
    """One that honours If-Match, and one that ignores it."""
    bucket = f"bad-{uuid.uuid4().hex[:8]}"
    if request.param == "SeaweedFS":
        faithful: S3Server = request.getfixturevalue("s3_server")
        faithful.make_bucket(bucket)

        def vanish() -> None:
            faithful.delete(bucket, "p/x")
            faithful.admin.remove_bucket(bucket)

        def store(body: bytes) -> None:
            faithful.put(bucket, "p/x", body)

        return Server(faithful.endpoint, bucket, store, vanish)
    awkward: AwkwardS3 = request.getfixturevalue("awkward_s3")
    folder = awkward.root / bucket / "p"
    folder.mkdir(parents=True)

    def put(body: bytes) -> None:
        (folder / "x.new").write_bytes(body)
        (folder / "x.new").replace(folder / "x")

    return Server(awkward.endpoint, bucket, put, lambda: shutil.rmtree(folder.parent))


async def stat(ufs: Ufs) -> UfsFile:
    """What the server says about ``x``."""
    found = await ufs.stat("x")
    assert isinstance(found, UfsFile)
    return found


@pytest.mark.s3
def test_a_bucket_that_vanishes_is_not_found(mem: Path, server: Server) -> None:
    server.put(OLD)

    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts, source_at(server.endpoint, server.bucket) as ufs:
            file = await stat(ufs)
            server.vanish()
            await refused(parts, ufs, file, NotFound)

    run(main())


@pytest.mark.s3
def test_an_object_replaced_in_mid_read_is_stale_and_no_byte_of_it_is_kept_as_the_old_one(
    mem: Path, server: Server
) -> None:
    server.put(OLD)

    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts, source_at(server.endpoint, server.bucket) as ufs:
            # given a block whose second extent was read
            asked = asked_for(await stat(ufs))
            source = from_s3(ufs, asked)
            assert await parts.read(asked, EXTENT, EXTENT + 100, source=source) == OLD[EXTENT : EXTENT + 100]
            # when the object is replaced by another of the same length
            server.put(NEW)
            # then the rest is refused
            with pytest.raises(StaleVersion):
                await parts.read(asked, 2 * EXTENT, 3 * EXTENT, source=source)
            assert parts.sealed() == 0
            # and the new version is a block of its own
            anew = asked_for(await stat(ufs))
            assert anew.block_id != asked.block_id
            assert await parts.read(anew, source=from_s3(ufs, anew)) == NEW

    run(main())


def ranged(body: bytes, request: Request) -> tuple[int, int, dict[str, str]]:
    """Start and stop of the range that was asked for, and the headers of a right answer."""
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    start, stop = int(first), int(last) + 1
    return start, stop, {"ETag": '"tag"', "Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}


def test_an_object_truncated_by_the_server_is_cut_off_and_whole_once_the_server_is_right(mem: Path) -> None:
    async def main() -> None:
        is_broken = True

        def script(request: Request) -> Reply:
            start, stop, headers = ranged(OLD, request)
            given = min(stop, 6 * MIB) if is_broken else stop
            return Reply(206, headers, OLD[start:given] if given > start else b"", length=stop - start, cut=is_broken)

        async with (
            kit(("MEM", mem, 64 * MIB), streams_max=1, run_extents_max=4) as parts,
            scripted(script) as (_, endpoint),
            source_at(endpoint, "bucket") as ufs,
        ):
            asked = asked_for(file_of(OLD, "tag"))
            with pytest.raises(UfsUnavailable):
                await parts.read(asked, source=from_s3(ufs, asked))
            assert parts.sealed() == 0
            is_broken = False
            assert await parts.read(asked, source=from_s3(ufs, asked)) == OLD

    run(main())


def test_an_answer_longer_than_promised_is_refused(mem: Path) -> None:
    async def main() -> None:
        def script(request: Request) -> Reply:
            start, stop, headers = ranged(OLD, request)
            return Reply(206, headers, OLD[start:stop] + b"more")

        async with (
            kit(("MEM", mem, 64 * MIB)) as parts,
            scripted(script) as (_, endpoint),
            source_at(endpoint, "bucket") as ufs,
        ):
            error = await refused(parts, ufs, file_of(OLD, "tag"), UfsError)
            assert "longer" in error.message

    run(main())


def test_bytes_behind_a_promised_length_are_never_kept(mem: Path) -> None:
    async def main() -> None:
        def script(request: Request) -> Reply:
            start, stop, headers = ranged(OLD, request)
            return Reply(206, headers, OLD[start:stop] + b"HTTP/1.1 206 x\r\n" * 64, length=stop - start)

        async with (
            kit(("MEM", mem, 64 * MIB)) as parts,
            scripted(script) as (_, endpoint),
            source_at(endpoint, "bucket") as ufs,
        ):
            asked = asked_for(file_of(OLD, "tag"))
            assert await parts.read(asked, source=from_s3(ufs, asked)) == OLD

    run(main())


def replies(request: Request) -> dict[str, Reply]:
    """Wrong answers to a request for a small file, by what is wrong."""
    start, stop, headers = ranged(SMALL, request)
    elsewhere = {"Content-Range": f"bytes {start}-{stop - 2}/{len(SMALL)}"}
    return {
        "truncated": Reply(206, headers, SMALL[:50_000], length=len(SMALL), cut=True),
        "truncated in its head": Reply(206, headers, b"", length=len(SMALL), cut=True),
        "longer": Reply(206, headers, SMALL + b"more"),
        "another version": Reply(206, headers | {"ETag": '"other"'}, SMALL),
        "another range": Reply(206, headers | elsewhere, SMALL[:-1]),
        "another size": Reply(200, {"ETag": '"tag"'}, SMALL[:-1]),
        "a head without an end": Reply(206, headers | {"X-Long": "x" * (80 << 10)}, SMALL),
        "bytes behind its length": Reply(206, headers, SMALL + b"HTTP/1.1 206 x\r\n" * 64, length=len(SMALL)),
        "a head of some KiB": Reply(206, headers | {"X-Long": "x" * 5000}, SMALL),
        "the whole file": Reply(200, {"ETag": '"tag"'}, SMALL),
    }


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("truncated", UfsUnavailable),
        ("truncated in its head", UfsUnavailable),
        ("longer", UfsError),
        ("another version", StaleVersion),
        ("another range", UfsError),
        ("another size", StaleVersion),
        ("a head without an end", UfsUnavailable),
    ],
)
def test_a_small_file_that_is_answered_wrongly_has_the_same_errors(
    mem: Path, wrong: str, error: type[ForebayError]
) -> None:
    async def main() -> None:
        async with (
            kit(("MEM", mem, 64 * MIB)) as parts,
            scripted(lambda request: replies(request)[wrong]) as (_, endpoint),
            source_at(endpoint, "bucket") as ufs,
        ):
            await refused(parts, ufs, file_of(SMALL, "tag"), error)

    run(main())


@pytest.mark.parametrize("odd", ["bytes behind its length", "a head of some KiB", "the whole file"])
def test_a_small_file_that_is_answered_oddly_is_kept_as_it_is(mem: Path, odd: str) -> None:
    async def main() -> None:
        async with (
            kit(("MEM", mem, 64 * MIB)) as parts,
            scripted(lambda request: replies(request)[odd]) as (_, endpoint),
            source_at(endpoint, "bucket") as ufs,
        ):
            for file in (file_of(SMALL, "tag"), replace(file_of(SMALL, "tag"), key="y")):
                asked = asked_for(file)
                assert await parts.read(asked, source=from_s3(ufs, asked)) == SMALL
            assert parts.sealed() == 2

    run(main())


@pytest.mark.parametrize(
    "refusal",
    [Reply(503, {}, b"<Error><Code>SlowDown</Code></Error>"), Reply(206, {}, length=EXTENT, hang=True)],
    ids=["refused", "no answer in time"],
)
def test_a_server_that_is_too_busy_is_asked_by_fewer_streams(mem: Path, refusal: Reply) -> None:
    async def main() -> None:
        refusals = 2

        def script(request: Request) -> Reply:
            nonlocal refusals
            start, stop, headers = ranged(OLD, request)
            refusals -= 1
            if refusals >= 0:
                return replace(refusal, headers=headers) if refusal.hang else refusal
            return Reply(206, headers, OLD[start:stop])

        async with (
            kit(("MEM", mem, 64 * MIB), tunes=True) as parts,
            scripted(script) as (_, endpoint),
            source_at(endpoint, "bucket") as ufs,
        ):
            asked = asked_for(file_of(OLD, "tag"))
            assert await parts.read(asked, source=from_s3(ufs, asked)) == OLD
            assert parts.lanes.streams() == {("ufs",): 2.0}

    run(main())
