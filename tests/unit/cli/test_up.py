"""What ``forebay up`` decides before and while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.cli.cluster import ClusterSpec, Places, child_specs
from forebay.cli.sources import SourceOptions, mount_setting, root_setting
from forebay.cli.up import RESTARTS_MAX, Restarts, check_mount_dir, source_uri
from forebay.errors import ConfigError
from forebay.ufs import UfsUri

S3 = UfsUri.parse("s3://bucket/prefix")


def places(count: int) -> Places:
    return Places(Path("/run/fb"), Path("/shm/fb"), tuple(range(7000, 7000 + count)))


def flags(args: tuple[str, ...], name: str) -> list[str]:
    return [args[i + 1] for i, arg in enumerate(args) if arg == name]


def test_a_service_may_be_restarted_a_bounded_number_of_times_within_a_window() -> None:
    restarts = Restarts()
    assert [restarts.may("worker-0", float(t)) for t in range(RESTARTS_MAX + 1)] == [True] * RESTARTS_MAX + [False]
    assert restarts.may("worker-1", 3.0)


def test_old_restarts_are_forgotten() -> None:
    restarts = Restarts()
    assert all(restarts.may("worker-0", t * 61.0) for t in range(10))


def test_a_folder_is_a_source_by_its_absolute_path(tmp_path: Path) -> None:
    assert str(source_uri(str(tmp_path))) == f"file://{tmp_path}"
    assert source_uri("s3://bucket/a/b") == UfsUri.parse("s3://bucket/a/b")


def test_a_source_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    for source in (str(tmp_path / "nowhere"), f"file://{tmp_path}/nowhere", "s3://", "1st://x/y"):
        with pytest.raises(ConfigError) as caught:
            source_uri(source)
        assert caught.value.setting == "SOURCE"


def test_a_mount_directory_that_cannot_work_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "source" / "inside").mkdir(parents=True)
    for directory in ("nowhere", "full", "full/file"):
        with pytest.raises(ConfigError, match=directory):
            check_mount_dir(tmp_path / directory, S3)
    with pytest.raises(ConfigError, match="overlap"):
        check_mount_dir(tmp_path / "source" / "inside", source_uri(str(tmp_path / "source")))
    with pytest.raises(ConfigError, match="mount point already"):
        check_mount_dir(Path("/proc"), S3)
    (tmp_path / "empty").mkdir()
    check_mount_dir(tmp_path / "empty", S3)


def test_the_services_get_one_registry_one_key_and_just_the_source_as_root() -> None:
    spec = ClusterSpec(mounts=("/=s3://b",), ufs_roots=("s3://b",), workers=2, mount_dirs=(Path("/mnt"),))
    children = child_specs(spec, places(4))
    assert [c.name for c in children] == ["master", "worker-0", "worker-1", "gateway"]
    for child in children:
        assert flags(child.args, "--registry") == ["http://127.0.0.1:7000"]
        assert flags(child.args, "--cluster-key-file") == ["/run/fb/cluster.key"]
        assert flags(child.args, "--host") == ["127.0.0.1"]
        assert flags(child.args, "--port") == [str(child.port)]
    assert [flags(c.args, "--ufs-roots") for c in children] == [["s3://b"]] * 3 + [[]]
    assert flags(children[1].args, "--tier-dirs") == [f"MEM:/shm/fb/worker-0:{1 << 30}"]
    assert flags(children[3].args, "--short-circuit-dirs") == ["/shm/fb/worker-0", "/shm/fb/worker-1"]


def test_a_zookeeper_registry_and_no_short_circuit_are_passed_on() -> None:
    spec = ClusterSpec(
        mounts=("/=s3://b",),
        ufs_roots=("s3://b",),
        mount_dirs=(Path("/mnt"),),
        registry="zookeeper://z:1/c",
        short_circuit=False,
    )
    children = child_specs(spec, places(3))
    assert {flags(c.args, "--registry")[0] for c in children} == {"zookeeper://z:1/c"}
    assert flags(children[2].args, "--short-circuit-dirs") == []


def test_an_s3_source_becomes_a_mount_with_options_and_a_root() -> None:
    options = SourceOptions("http://127.0.0.1:9", "eu-west-1", "lab", path_style=True)
    assert mount_setting("/", S3, options) == (
        "/=s3://bucket/prefix,endpoint=http://127.0.0.1:9,region=eu-west-1,profile=lab,path-style=true"
    )
    assert root_setting(S3, options) == "lab=s3://bucket/prefix@http://127.0.0.1:9"
    assert root_setting(S3, SourceOptions()) == "s3://bucket/prefix"
    assert mount_setting("/d", UfsUri.parse("file:///a"), options) == "/d=file:///a"


def test_with_a_keeper_each_mount_has_one_and_its_gateway_knows_the_socket() -> None:
    spec = ClusterSpec(mounts=("/=s3://b",), ufs_roots=("s3://b",), mount_dirs=(Path("/a"), Path("/b")), keeper=True)
    children = child_specs(spec, places(4))
    assert [c.name for c in children] == ["master", "worker-0", "keeper", "gateway", "keeper-1", "gateway-1"]
    for keeper, gateway in (children[2:4], children[4:6]):
        assert keeper.args == (str(keeper.socket),)
        assert flags(gateway.args, "--keeper") == [str(keeper.socket)]
    assert children[2].socket != children[4].socket
