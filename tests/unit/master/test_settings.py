"""The master's settings: mounts as they are written, what is refused and under which name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forebay.contracts import UfsOptions
from forebay.errors import ConfigError
from forebay.runtime import load
from forebay_master.app import with_key_file
from forebay_master.settings import MasterSettings, mount_requests, state_directory


def read(*argv: str) -> MasterSettings:
    return load(MasterSettings, argv, prog="forebay-master", version="0", description="")


def one(text: str, *argv: str) -> Any:
    (request,) = mount_requests(read("--mount", text, *argv))
    return request


def test_a_mount_takes_the_defaults_of_the_settings() -> None:
    request = one(
        "/data=s3://bucket/p",
        *("--ufs-endpoint", "http://h:9", "--ufs-region", "eu", "--ufs-path-style", "--ufs-profile", "p"),
        *("--block-size", "8MiB", "--max-age-s", "5", "--replicas", "2", "--ufs-ca-file", "/ca"),
    )
    assert request.options == UfsOptions(
        profile="p", endpoint="http://h:9", region="eu", path_style=True, ca_file="/ca", anonymous=False
    )
    assert (request.path, request.ufs_uri) == ("/data", "s3://bucket/p")
    assert (request.block_size, request.max_age_s, request.replicas) == (8 << 20, 5.0, 2)


def test_options_of_a_mount_beat_the_settings() -> None:
    request = one(
        "/data=s3://bucket,endpoint=http://h:1,anonymous=yes,path-style=false,max-age-s=immutable,block-size=4MiB",
        *("--ufs-endpoint", "http://h:9", "--ufs-path-style"),
    )
    assert request.options == UfsOptions(endpoint="http://h:1", anonymous=True, path_style=False)
    assert (request.block_size, request.max_age_s) == (4 << 20, None)


def test_a_mount_says_what_workers_keep_of_it() -> None:
    request = one("/data=s3://bucket,pin=yes,ttl-s=3600,quota=10GiB")
    assert (request.pin, request.ttl_s, request.quota_bytes) == (True, 3600.0, 10 << 30)
    plain = one("/data=s3://bucket")
    assert (plain.pin, plain.ttl_s, plain.quota_bytes) == (False, None, None)


def test_a_folder_needs_none_of_the_options_of_s3() -> None:
    assert one("/=file:///data", "--ufs-endpoint", "http://h:9").options == UfsOptions()


def test_a_source_may_hold_commas_and_equals_signs_and_a_path_too() -> None:
    request = one("/a=b,c=s3://bucket/x,y=z,region=eu")
    assert (request.path, request.ufs_uri, request.options.region) == ("/a=b,c", "s3://bucket/x,y=z", "eu")


def test_several_mounts_are_one_flag_repeated_or_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = mount_requests(read("--mount", "/a=file:///a", "--mount", "/b/=file:///b"))
    assert [request.path for request in flags] == ["/a", "/b"]
    monkeypatch.setenv("FOREBAY_MASTER_MOUNT", '["/a=s3://bucket,region=eu", "/b=file:///b"]')
    assert [request.path for request in mount_requests(read())] == ["/a", "/b"]
    monkeypatch.setenv("FOREBAY_MASTER_MOUNT", "/a=file:///a,/b=file:///b")
    assert [request.path for request in mount_requests(read())] == ["/a", "/b"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/a",
        "a=file:///x",
        "/a=local:///x",
        "/a=file://x",
        "/a=s3://",
        "/a/../b=file:///x",
        "/a=s3://bucket,region",
        "/a=s3://bucket,anonymous=maybe",
        "/a=s3://bucket,block-size=5",
        "/a=s3://bucket,block-size=1MiB",
        "/a=s3://bucket,replicas=0",
        "/a=s3://bucket,replicas=x",
        "/a=s3://bucket,max-age-s=-1",
        "/a=s3://bucket,max-age-s=nan",
        "/a=s3://bucket,endpoint=ftp://x",
        "/a=s3://bucket,profile=",
    ],
)
def test_a_mount_that_cannot_be_read_is_named_by_its_place(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        mount_requests(read("--mount", "/ok=file:///ok", "--mount", text))
    assert refused.value.setting == "mount"
    assert "entry 2" in refused.value.message


def test_a_password_in_an_endpoint_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        one("/a=s3://bucket,endpoint=http://u:hunter2@h")
    assert "hunter2" not in str(refused.value)


def test_one_path_twice_is_refused() -> None:
    with pytest.raises(ConfigError):
        mount_requests(read("--mount", "/a=file:///x", "--mount", "/a/=file:///y"))


@pytest.mark.parametrize(
    "argv",
    [
        ("--max-age-s", "-1"),
        ("--max-age-s", "soon"),
        ("--max-age-s", "inf"),
        ("--block-size", "5MiB"),
        ("--ticket-ttl-s", "0.5"),
        ("--mounts", "/a=file:///x"),
    ],
)
def test_an_impossible_setting_is_named_as_it_was_written(argv: tuple[str, str]) -> None:
    with pytest.raises(ConfigError) as refused:
        read(*argv)
    assert refused.value.setting == argv[0]


def test_max_age_may_be_immutable() -> None:
    assert read("--max-age-s", "immutable").max_age_s is None
    assert read().max_age_s == 60.0


def test_the_state_lies_in_the_users_own_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert state_directory(read("--cluster-id", "a/b")) == Path("/state/forebay/master-a_b")
    assert state_directory(read("--state-dir", "/x")) == Path("/x")


def test_on_loopback_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = with_key_file(read(), tmp_path)
    assert first.cluster_key_file is not None
    text = first.cluster_key_file.read_text()
    assert first.cluster_key_file.stat().st_mode & 0o777 == 0o600
    again = with_key_file(read(), tmp_path)
    assert again.cluster_key_file == first.cluster_key_file
    assert first.cluster_key_file.read_text() == text


@pytest.mark.parametrize(
    "argv", [("--insecure",), ("--cluster-key-file", "/k"), ("--host", "0.0.0.0"), ("--registry", "zookeeper://z")]
)
def test_elsewhere_no_key_is_made(tmp_path: Path, argv: tuple[str, ...]) -> None:
    settings = read(*argv)
    assert with_key_file(settings, tmp_path) is settings
    assert list(tmp_path.iterdir()) == []
