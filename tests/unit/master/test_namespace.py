"""Paths and mounts: what is refused, which mount owns a path, which directories mounts make."""

from __future__ import annotations

import pytest

from forebay.contracts import Mount, MountRequest, UfsOptions
from forebay.errors import Conflict, InvalidRequest, TooLarge
from forebay_master import namespace
from forebay_master.namespace import MountTable, directory_inode, join, mount_id_of, name_of, normalise, parent_of


def mount(path: str) -> Mount:
    return Mount(mount_id=f"m{path}", generation=1, path=path, ufs_uri="file:///x", ufs_id="0" * 32)


def table(*paths: str) -> MountTable:
    made = MountTable()
    for path in paths:
        made = made.with_mount(mount(path))
    made.validate()
    return made


@pytest.mark.parametrize(
    ("path", "normal"),
    [("/", "/"), ("/a", "/a"), ("/a/", "/a"), ("/a b/ä/日本", "/a b/ä/日本"), ("/...", "/..."), ("/a\nb", "/a\nb")],
)
def test_a_path_has_one_spelling(path: str, normal: str) -> None:
    assert normalise(path) == normal


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "not_absolute"),
        ("a", "not_absolute"),
        ("./a", "not_absolute"),
        ("//", "empty_part"),
        ("/a//b", "empty_part"),
        ("/a//", "empty_part"),
        ("/..", "dots"),
        ("/a/../b", "dots"),
        ("/a/.", "dots"),
        ("/a\0b", "nul"),
        ("/" + "n" * 256, "bad_name"),
        ("/" + "ä" * 128, "bad_name"),
        ("/\ud800", "bad_name"),
        ("/" + "/".join(["n" * 255] * 17), "too_long"),
    ],
)
def test_what_is_no_path_is_refused_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        normalise(path)
    assert refused.value.details["reason"] == reason


def test_names_and_parents_put_together_again_give_the_path() -> None:
    for path in ("/a", "/a/b", "/a/b/c"):
        assert join(parent_of(path), name_of(path)) == path
    assert (parent_of("/"), name_of("/"), parent_of("/a")) == ("/", "", "/")


def test_the_longest_prefix_owns_a_path() -> None:
    mounts = table("/", "/a", "/a/b/c")
    assert mounts.resolve("/a/b/c/d/e") == (mount("/a/b/c"), "d/e")
    assert mounts.resolve("/a/b/cc") == (mount("/a"), "b/cc")
    assert mounts.resolve("/ab") == (mount("/"), "ab")
    assert mounts.resolve("/") == (mount("/"), "")


def test_without_a_mount_above_nothing_owns_a_path() -> None:
    assert table("/a/b").resolve("/a") is None
    assert table().resolve("/") is None


def test_directories_above_mounts_exist_and_show_the_way() -> None:
    mounts = table("/a/b/c", "/a/d", "/z")
    assert mounts.place("/").below == ("a", "z")
    assert mounts.place("/a").below == ("b", "d")
    assert mounts.place("/a/b").is_given
    assert mounts.place("/a/b/c").is_mount_point
    assert mounts.place("/a/b/c").is_given
    assert not mounts.place("/a/b/c/x").is_given
    assert not mounts.place("/q").is_given


def test_the_root_is_there_without_any_mount() -> None:
    assert table().place("/").is_given


def test_a_path_that_is_taken_is_a_conflict() -> None:
    with pytest.raises(Conflict):
        table("/a").with_mount(mount("/a"))


def test_a_full_table_takes_no_more() -> None:
    full = MountTable(tuple(mount(f"/{number}") for number in range(namespace.MOUNTS_MAX)))
    with pytest.raises(TooLarge):
        full.with_mount(mount("/one-more"))
    full.without("/7").with_mount(mount("/one-more")).validate()


def test_a_mount_id_depends_on_path_source_and_options_alone() -> None:
    base = MountRequest(path="/a", ufs_uri="s3://bucket/x")
    same = MountRequest(path="/a", ufs_uri="s3://bucket/x", block_size=8 << 20, max_age_s=None)
    others = [
        MountRequest(path="/b", ufs_uri="s3://bucket/x"),
        MountRequest(path="/a", ufs_uri="s3://bucket/y"),
        MountRequest(path="/a", ufs_uri="s3://bucket/x", options=UfsOptions(profile="other")),
    ]
    assert mount_id_of(base) == mount_id_of(same)
    assert len({mount_id_of(request) for request in [base, *others]}) == 4


def test_only_the_root_has_inode_one() -> None:
    assert directory_inode("/") == 1
    assert directory_inode("/a") > 1
