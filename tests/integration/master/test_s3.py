"""A master over real S3 servers: a faithful one (SeaweedFS) and one with bad habits (rclone)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path

import orjson
import pytest
from botocore.exceptions import ClientError
from msgspec import structs
from typer.testing import CliRunner

from forebay.cli.main import app
from forebay.contracts import UfsOptions
from forebay.errors import ConfigError, NotFound
from forebay.testing import run
from forebay.testing.s3 import READER, AwkwardS3, S3Server, credentials_env
from forebay.ufs import UfsUri, is_file_name
from tests.contract.master.kit import Service, service, settings

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard chain finds them in the environment."""
    for name, value in credentials_env().items():
        monkeypatch.setenv(name, value)


def options(endpoint: str) -> str:
    return f"endpoint={endpoint},path-style=yes,region=us-east-1,max-age-s=0"


def test_a_bucket_of_more_than_a_page_is_listed_looked_up_and_seen_changing(
    tmp_path: Path, s3_server: S3Server
) -> None:
    async def main() -> None:
        bucket = "master-pages"
        s3_server.make_bucket(bucket)
        names = [f"{number:05}.jpg" for number in range(2300)]
        s3_server.put_many(bucket, {f"data/train/{name}": b"x" for name in names})
        s3_server.put_many(bucket, {"data/train-2/a": b"xy", "data/läbels": b"xyz", "other/secret": b"no"})
        root = f"s3://{bucket}/data@{s3_server.endpoint}"
        mount = f"/m=s3://{bucket}/data,{options(s3_server.endpoint)}"
        async with service(settings(tmp_path, [mount], [root])) as s:
            assert [(e.name, e.kind) for e in await s.entries("/m")] == [
                ("läbels", "file"),
                ("train", "dir"),
                ("train-2", "dir"),
            ]
            assert [e.name for e in await s.entries("/m/train", limit=999)] == names
            first = (await s.lookup("/m/train-2/a")).entry
            assert first.layout is not None
            uri = UfsUri.parse(f"s3://{bucket}/data")
            chosen = UfsOptions(endpoint=s3_server.endpoint)
            assert first.layout.version_id == uri.version_id(chosen, "train-2/a", first.layout.fingerprint)
            assert first == (await s.entries("/m/train-2"))[0]
            with pytest.raises(NotFound):
                await s.lookup("/m/train-2/b")

            s3_server.put(bucket, "data/train-2/a", b"longer")
            second = (await s.lookup("/m/train-2/a")).entry
            assert (second.size, second.inode) == (6, first.inode)
            assert second.layout is not None
            assert second.layout.version_id != first.layout.version_id
            s3_server.delete(bucket, "data/train-2/a")
            with pytest.raises(NotFound):
                await s.lookup("/m/train-2/a")

    run(main(), watchdog_s=90)


def test_adding_a_mount_says_which_of_four_things_is_wrong(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.make_bucket("master-four")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        silent = f"http://127.0.0.1:{taken.getsockname()[1]}"

    async def add(bucket: str, endpoint: str) -> tuple[int, object, str]:
        async with service(settings(tmp_path, [], [f"s3://{bucket}@{endpoint}"])) as s:
            chosen = {"endpoint": endpoint, "path_style": True, "region": "us-east-1"}
            reply = await s.send("POST", "/v1/mounts", {"path": "/m", "ufs_uri": f"s3://{bucket}", "options": chosen})
            answer = orjson.loads(reply.body)
            assert (await s.mounts()).mounts == ()
            return reply.status, answer["details"].get("reason"), answer["message"]

    bucket, endpoint = run(add("master-no-such", s3_server.endpoint)), run(add("master-four", silent))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-than-the-right-one")
    credentials = run(add("master-four", s3_server.endpoint))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER.secret_key)
    permission = run(add("master-four", s3_server.endpoint))
    assert [each[:2] for each in (bucket, endpoint, credentials, permission)] == [
        (404, "bucket"),
        (502, "endpoint"),
        (502, "credentials"),
        (502, "permission"),
    ]
    assert len({each[2] for each in (bucket, endpoint, credentials, permission)}) == 4


def test_sources_that_are_missing_or_denied_are_settings_that_cannot_work(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(bucket: str) -> None:
        root = f"s3://{bucket}@{s3_server.endpoint}"
        mount = f"/m=s3://{bucket},{options(s3_server.endpoint)}"
        async with service(settings(tmp_path, [mount], [root])):
            pass

    with pytest.raises(ConfigError) as missing:
        run(start("master-missing"))
    assert missing.value.setting == "mount"
    s3_server.make_bucket("master-denied")
    s3_server.put("master-denied", "a", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-that-must-not-show")
    with pytest.raises(ConfigError) as denied:
        run(start("master-denied"))
    assert denied.value.setting == "mount"
    assert "wrong-secret" not in str(denied.value)


def test_an_endpoint_where_nobody_answers_is_said_after_the_deadline(tmp_path: Path) -> None:
    async def main() -> None:
        endpoint = "http://127.0.0.1:1"
        mount = f"/m=s3://bucket,{options(endpoint)}"
        given = settings(tmp_path, [mount], [f"s3://bucket@{endpoint}"], source_timeout_s=0.5)
        with pytest.raises(ConfigError) as silent:
            async with service(given):
                pass
        assert silent.value.setting == "mount"

    run(main(), watchdog_s=60)


def test_an_awkward_server_gives_the_same_names(tmp_path: Path, awkward_s3: AwkwardS3) -> None:
    async def main() -> None:
        bucket = "master-awkward"
        awkward_s3.admin.make_bucket(bucket)
        awkward_s3.admin.put_many(bucket, {"d/a": b"1", "d/b/c": b"22", "top": b"333"})
        root = f"s3://{bucket}@{awkward_s3.endpoint}"
        mount = f"/m=s3://{bucket},{options(awkward_s3.endpoint)}"
        async with service(settings(tmp_path, [mount], [root])) as s:
            assert [(e.name, e.size) for e in await s.entries("/m")] == [("d", 0), ("top", 3)]
            assert [(e.name, e.size) for e in await s.entries("/m/d")] == [("a", 1), ("b", 0)]
            # (its listings round times, its heads cut them off)
            looked_up, listed = (await s.lookup("/m/d/b/c")).entry, (await s.entries("/m/d/b"))[0]
            assert abs(looked_up.mtime_ns - listed.mtime_ns) <= 10**9
            assert structs.replace(looked_up, mtime_ns=0) == structs.replace(listed, mtime_ns=0)

    run(main(), watchdog_s=60)


def test_a_source_that_was_mounted_before_may_be_silent_at_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        with AwkwardS3() as server:
            server.admin.make_bucket("master-silent")
            server.admin.put_many("master-silent", {"d/a": b"1"})
            mount = (
                f"/m=s3://master-silent,endpoint={server.endpoint},path-style=yes,region=us-east-1,max-age-s=immutable"
            )
            given = settings(tmp_path, [mount], [f"s3://master-silent@{server.endpoint}"])
            async with service(given) as s:
                assert [e.name for e in await s.entries("/m/d")] == ["a"]
            server.close()
            async with service(given) as s:
                # what was listed is known, what was not is an error and no empty directory
                assert [e.name for e in await s.entries("/m/d")] == ["a"]
                assert (await s.refused("POST", "/v1/list", {"path": "/m"}))[1] == "ufs_unavailable"
                assert (await s.refused("POST", "/v1/lookup", {"path": "/m/x"}))[1] == "ufs_unavailable"

    run(main(), watchdog_s=90)


STRANGE = (
    *(
        "plain",
        "a//b",
        "a/c",
        "./x",
        "../x",
        "d/../y",
        "d/./z",
        "/lead",
        "marker/",
        "both",
        "both/x",
        "late-1",
        "late/x",
    ),
    *("tab\there", "line\nfeed", "ü/ñ", f"long/{'m' * 256}/x", f"long/{'n' * 255}"),
)


def shown(keys: Iterable[str]) -> dict[str, str]:
    """The rule of SEMANTICS.md: what is shown of a bucket with these keys, by path."""
    found: dict[str, str] = {}
    for key in keys:
        parts = key.split("/")
        for end in range(1, len(parts)):
            if not all(map(is_file_name, parts[:end])):
                break
            found["/".join(parts[:end])] = "dir"
        if all(map(is_file_name, parts)):
            found.setdefault(key, "file")
    return found


def test_keys_that_are_no_file_names_are_shown_by_the_rule(tmp_path: Path, s3_server: S3Server) -> None:
    async def walk(s: Service, path: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for entry in await s.entries(f"/m/{path}".rstrip("/")):
            below = f"{path}/{entry.name}" if path else entry.name
            found[below] = entry.kind
            assert (await s.lookup(f"/m/{below}")).entry.kind == entry.kind
            found |= await walk(s, below) if entry.kind == "dir" else {}
        return found

    async def main() -> None:
        bucket = "master-strange"
        s3_server.make_bucket(bucket)
        for key in STRANGE:
            with contextlib.suppress(ClientError):  # some keys no server takes
                s3_server.put(bucket, key, b"" if key.endswith("/") else b"x")
        keys = s3_server.admin.keys(bucket)
        assert {"plain", "marker/", "late-1", "late/x"} <= set(keys)
        root = f"s3://{bucket}@{s3_server.endpoint}"
        mount = f"/m=s3://{bucket},{options(s3_server.endpoint)}"
        async with service(settings(tmp_path, [mount], [root])) as s:
            assert await walk(s, "") == shown(keys)
            for path in ("/m/a//b", "/m/./x", "/m/../x", "/m/d/../y", "/m/a\0b"):
                assert await s.refused("POST", "/v1/lookup", {"path": path}) == (400, "invalid_request")

    run(main(), watchdog_s=120)


def test_ls_shows_why_a_listing_failed_and_when_the_source_is_asked_again(tmp_path: Path) -> None:
    async def main() -> None:
        with AwkwardS3() as s3:
            (s3.root / "away" / "d").mkdir(parents=True)
            (s3.root / "away" / "d" / "file").write_bytes(b"x")
            mount = f"/m=s3://away,{options(s3.endpoint)}"
            given = settings(tmp_path, [mount], [f"s3://away@{s3.endpoint}"], cluster_id="forebay")
            async with service(given) as s:
                assert [entry.name for entry in await s.entries("/m/d")] == ["file"]
                s3.close()
                replies = [await s.send("GET", "/v1/dirs/m/d") for _ in range(3)]
                said = [orjson.loads(reply.body) for reply in replies]
                assert {(r.status, a["code"]) for r, a in zip(replies, said, strict=True)} == {(502, "ufs_unavailable")}
                assert [a["details"]["attempts"] for a in said] == [1, 2, 2]  # the third is the stored answer
                assert said[2]["details"]["retry_at_s"] > said[2]["details"]["failed_at_s"]
                environ = {"FOREBAY_REGISTRY": f"http://{s.address}"}
                ended = await asyncio.to_thread(CliRunner().invoke, app, ["ls", "/m/d"], env=environ)
                assert (ended.exit_code, ended.stdout) == (1, "")
                assert "the listing failed (ufs_unavailable); the " in ended.stderr
                mounted = (await s.status()).detail["mount /m"]
                assert isinstance(mounted, dict)
                assert (mounted["failed_directories"], mounted["last_failure_directory"]) == (1, "d")

    run(main(), watchdog_s=120)
