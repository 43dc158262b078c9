"""The S3 adapter and a real SeaweedFS: odd keys, credentials from everywhere, a server that dies."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from forebay.contracts import UfsOptions
from forebay.errors import ConfigError, NotFound, UfsDenied, UfsUnavailable
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.faults import FaultProxy, Faults
from forebay.testing.s3 import ACCESS_KEY, READER, SECRET_KEY, S3Server
from forebay.ufs import Credentials, Ufs, UfsDir, UfsFile, UfsLimits, UfsUri, check_listable, open_ufs

pytestmark = pytest.mark.s3

TEST = Credentials(ACCESS_KEY, SECRET_KEY)
LIMITS = UfsLimits(streams_max=4, connect_timeout_s=1.0, silence_timeout_s=3.0, request_timeout_s=10.0)


@asynccontextmanager
async def opened(
    server: S3Server, uri: str = "s3://lake/set", credentials: Credentials | None = TEST, **options: str | bool
) -> AsyncIterator[Ufs]:
    ufs = await open_ufs(
        UfsUri.parse(uri),
        msgspec.structs.replace(UfsOptions(endpoint=server.endpoint, path_style=True), **options),
        telemetry=quiet(),
        credentials=credentials,
        limits=LIMITS,
    )
    try:
        yield ufs
    finally:
        await ufs.close()


async def whole(ufs: Ufs, key: str) -> bytes:
    entry = await ufs.stat(key)
    assert isinstance(entry, UfsFile)
    return b"".join([piece async for piece in ufs.read(key, 0, entry.size, fingerprint=entry.fingerprint)])


def test_markers_are_directories_even_empty_ones(lake: S3Server) -> None:
    async def main() -> None:
        # given
        lake.admin.put_many("lake", {"marks/empty/": b"", "marks/full/": b"", "marks/full/x": b"1"})
        async with opened(lake, "s3://lake/marks") as ufs:
            # when, then
            assert (await ufs.list_page("")).entries == (UfsDir("empty"), UfsDir("full"))
            assert await ufs.stat("empty") == UfsDir("empty")
            assert (await ufs.list_page("empty")).entries == ()
            assert [entry.key for entry in (await ufs.list_page("full")).entries] == ["full/x"]

    run(main())


def test_an_object_hides_behind_a_directory_of_its_name(lake: S3Server) -> None:
    async def main() -> None:
        # given
        lake.admin.put_many("lake", {"both/x": b"object", "both/x/below": b"1", "both/x-y": b"2"})
        async with opened(lake, "s3://lake/both") as ufs:
            # when, then
            assert [entry.key for entry in (await ufs.list_page("")).entries] == ["x-y", "x"]
            assert await ufs.stat("x") == UfsDir("x")

    run(main())


def test_a_bucket_is_a_source_without_a_prefix(lake: S3Server) -> None:
    async def main() -> None:
        async with opened(lake, "s3://lake") as ufs:
            await check_listable(ufs)
            assert UfsDir("set") in (await ufs.list_page("")).entries
            assert await ufs.stat("") == UfsDir("")
            assert await whole(ufs, "set/a.bin") == b"0123456789"

    run(main())


def test_an_object_is_no_source(lake: S3Server) -> None:
    async def main() -> None:
        async with opened(lake, "s3://lake/set/a.bin") as ufs:
            with pytest.raises(NotFound):
                await ufs.stat("")
            with pytest.raises(NotFound, match="is no folder"):
                await check_listable(ufs)

    run(main())


def test_a_name_that_no_object_can_have_is_not_found(lake: S3Server) -> None:
    async def main() -> None:
        key = "/".join(["x" * 200] * 6)
        async with opened(lake) as ufs:
            with pytest.raises(NotFound):
                await ufs.stat(key)
            with pytest.raises(NotFound):
                await anext(ufs.read(key, 0, 1, fingerprint="t"))

    run(main())


def test_a_network_that_stalls_or_breaks_is_unavailable_and_heals(lake: S3Server) -> None:
    async def main() -> None:
        # given
        body = bytes(1 << 20)
        lake.put("lake", "net/x", body)
        with FaultProxy(lake.endpoint.removeprefix("http://")) as proxy:
            async with opened(lake, "s3://lake/net", endpoint=f"http://{proxy.address}") as ufs:
                entry = await ufs.stat("x")
                assert isinstance(entry, UfsFile)
                for faults in [Faults(cut_after=500_000), Faults(refusing=True), Faults(stalled=True)]:
                    # when
                    proxy.faults = faults
                    if faults.refusing:
                        proxy.cut()
                    # then
                    with pytest.raises(UfsUnavailable):
                        async for _ in ufs.read("x", 0, len(body), fingerprint=entry.fingerprint):
                            pass
                    proxy.faults = Faults()
                    assert await whole(ufs, "x") == body

    run(main())


@pytest.mark.parametrize("uri", ["s3://no-such-bucket", "s3://no-such-bucket/x", "s3://lake/no/such/prefix"])
def test_a_source_that_does_not_exist_says_so(lake: S3Server, uri: str) -> None:
    async def main() -> None:
        async with opened(lake, uri) as ufs:
            with pytest.raises(NotFound, match=f"{uri} does not exist"):
                await check_listable(ufs)

    run(main())


@pytest.mark.parametrize(
    "credentials",
    [Credentials("nobody", "x"), Credentials(ACCESS_KEY, "wrong"), READER],
    ids=["key", "secret", "reader"],
)
def test_a_source_that_may_not_be_listed_says_so(lake: S3Server, credentials: Credentials) -> None:
    async def main() -> None:
        async with opened(lake, credentials=credentials) as ufs:
            with pytest.raises(UfsDenied, match="s3://lake/set may not be listed"):
                await check_listable(ufs)
            if credentials is not READER:
                with pytest.raises(UfsDenied):
                    await anext(ufs.read("a.bin", 0, 1, fingerprint="781e5e245d69b566979b86e28d23f2c7"))

    run(main())


@pytest.mark.usefixtures("no_aws")
def test_credentials_come_from_the_environment(lake: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in lake.env.items():
        monkeypatch.setenv(name, value)

    async def main() -> None:
        async with opened(lake, credentials=None) as ufs:
            assert await whole(ufs, "a.bin") == b"0123456789"

    run(main())


@pytest.mark.usefixtures("no_aws")
def test_a_profile_has_its_own_credentials_and_beats_the_environment(
    lake: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # given
    files = tmp_path / "credentials"
    files.write_text(f"[lake]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(files))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")

    async def main() -> None:
        # when, then
        async with opened(lake, credentials=None, profile="lake") as ufs:
            assert await whole(ufs, "a.bin") == b"0123456789"
        async with opened(lake, credentials=None) as ufs:
            with pytest.raises(UfsDenied):
                await check_listable(ufs)
        with pytest.raises(ConfigError, match="profile"):
            async with opened(lake, credentials=None, profile="other"):
                pass

    run(main())


@pytest.mark.usefixtures("no_aws")
def test_no_credentials_anywhere_is_said_at_once(lake: S3Server) -> None:
    async def main() -> None:
        with pytest.raises(UfsDenied, match="no usable credentials"):
            async with opened(lake, credentials=None):
                pass

    run(main())


@pytest.mark.usefixtures("no_aws")
def test_an_anonymous_mount_reads_what_is_public_and_nothing_else(lake: S3Server) -> None:
    async def main() -> None:
        async with opened(lake, "s3://public/set", None, anonymous=True) as ufs:
            await check_listable(ufs)
            assert await whole(ufs, "a.bin") == b"0123456789"
        async with opened(lake, "s3://lake/set", None, anonymous=True) as ufs:
            with pytest.raises(UfsDenied):
                await check_listable(ufs)

    run(main())


@pytest.mark.usefixtures("no_aws")
def test_credentials_that_are_about_to_end_are_renewed_while_the_source_is_open(
    lake: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # given: a process gives credentials that end in a minute, so each use renews them
    answer, config = tmp_path / "answer.json", tmp_path / "config"
    script = tmp_path / "give"
    script.write_text(f"#!{sys.executable}\nprint(open({str(answer)!r}).read())\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    config.write_text(f"[profile short]\ncredential_process = {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

    def give(secret: str) -> None:
        ends = "2099-01-01T00:00:00Z" if secret == SECRET_KEY else ends_soon()
        keys = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": secret}
        answer.write_text(json.dumps({"Version": 1, **keys, "Expiration": ends}))

    async def main() -> None:
        give("wrong")
        async with opened(lake, credentials=None, profile="short") as ufs:
            with pytest.raises(UfsDenied):
                await check_listable(ufs)
            # when
            give(SECRET_KEY)
            # then
            assert await whole(ufs, "a.bin") == b"0123456789"

    run(main())


def ends_soon() -> str:
    from datetime import UTC, datetime, timedelta

    return (datetime.now(UTC) + timedelta(seconds=60)).isoformat()


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_of_a_read_is_unavailable_and_not_a_short_file(tmp_path: Path) -> None:
    async def main() -> None:
        # given
        size = 48 << 20
        with S3Server() as server:
            server.make_bucket("lake")
            server.put("lake", "set/big", bytes(size))
            async with opened(server) as ufs:
                entry = await ufs.stat("big")
                assert isinstance(entry, UfsFile)
                pieces = ufs.read("big", 0, size, fingerprint=entry.fingerprint)
                got = [await anext(pieces)]
                # when
                await asyncio.to_thread(server.stop)
                # then
                with pytest.raises(UfsUnavailable):
                    got.extend([piece async for piece in pieces])
                assert sum(len(piece) for piece in got) < size
                for call in (ufs.stat("big"), check_listable(ufs)):
                    with pytest.raises(UfsUnavailable):
                        await call

    run(main(), watchdog_s=90)
