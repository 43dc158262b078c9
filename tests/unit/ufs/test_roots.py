"""The gate in front of under stores, entry by entry."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.contracts import UfsOptions
from forebay.errors import ConfigError, InvalidRequest, PermissionDenied
from forebay.ufs import AllowedRoots, UfsUri


def allows(roots: list[str], uri: str, options: UfsOptions | None = None) -> bool:
    try:
        AllowedRoots.parse(roots).check(UfsUri.parse(uri), options or UfsOptions())
    except PermissionDenied:
        return False
    return True


def test_an_empty_list_allows_nothing() -> None:
    assert not allows([], "s3://bucket/data")
    assert not allows([], "file:///")


def test_a_root_allows_itself_and_what_is_below_by_whole_segments() -> None:
    for uri in ["s3://bucket/data", "s3://bucket/data/", "s3://bucket/data/x/y"]:
        assert allows(["s3://bucket/data"], uri)
    for uri in ["s3://bucket", "s3://bucket/data2", "s3://bucket/dat", "s3://bucket2/data", "s3://bucket/x/data"]:
        assert not allows(["s3://bucket/data"], uri)
    assert allows(["s3://bucket"], "s3://bucket/anything")


def test_the_endpoint_belongs_to_the_root() -> None:
    here, there = UfsOptions(endpoint="http://minio:9000/"), UfsOptions(endpoint="http://evil:9000")
    assert allows(["s3://bucket/data@http://minio:9000"], "s3://bucket/data", here)
    assert not allows(["s3://bucket/data@http://minio:9000"], "s3://bucket/data", there)
    assert not allows(["s3://bucket/data@http://minio:9000"], "s3://bucket/data")
    assert not allows(["s3://bucket/data"], "s3://bucket/data", here)


def test_the_profile_belongs_to_the_root() -> None:
    lab = UfsOptions(profile="lab")
    assert allows(["lab=s3://bucket"], "s3://bucket/x", lab)
    assert not allows(["lab=s3://bucket"], "s3://bucket/x")
    assert not allows(["s3://bucket"], "s3://bucket/x", lab)
    assert allows(["default=s3://bucket"], "s3://bucket/x")


def test_a_prefix_may_hold_what_separates_the_endpoint() -> None:
    assert allows(["s3://bucket/a@b=c"], "s3://bucket/a@b=c/d")
    assert allows(["s3://bucket/a@b@http://m:1"], "s3://bucket/a@b/d", UfsOptions(endpoint="http://m:1"))


def test_links_are_followed_before_a_folder_is_allowed(tmp_path: Path) -> None:
    # given
    (tmp_path / "data" / "real").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "data" / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "data" / "in").symlink_to("real")
    (tmp_path / "alias").symlink_to("data")
    # when, then
    assert allows([f"file://{tmp_path}/data"], f"file://{tmp_path}/data/in")
    assert not allows([f"file://{tmp_path}/data"], f"file://{tmp_path}/data/out")
    assert allows([f"file://{tmp_path}/alias"], f"file://{tmp_path}/alias/real")
    assert not allows([f"file://{tmp_path}/data"], f"file://{tmp_path}/alias/real")  # by words it is another place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bucket",
        "s3://",
        "s3://bucket/..",
        "a b=s3://bucket",
        "lab=file:///data",
        "file:///d@http://x",
        "s3://b@http://u:p@h",
    ],
)
def test_a_malformed_entry_is_named_by_its_place(text: str) -> None:
    with pytest.raises(ConfigError, match="ufs_roots: entry 2"):
        AllowedRoots.parse(["s3://bucket", text])


def test_an_endpoint_with_a_password_never_passes() -> None:
    with pytest.raises(InvalidRequest):
        allows(["s3://bucket@http://minio:9000"], "s3://bucket", UfsOptions(endpoint="http://u:p@minio:9000"))
