"""Arguments and settings of the gateway, and what it reads of the mount table."""

from __future__ import annotations

import pytest

from forebay.errors import ConfigError
from forebay_fuse.command import arguments
from forebay_fuse.mounting import device_of
from forebay_fuse.settings import FuseSettings


@pytest.mark.parametrize(
    "argv",
    [
        ["/mnt", "--root", "/data", "--kernel-cache"],
        ["--root", "/data", "/mnt", "--kernel-cache"],
        ["--root=/data", "--kernel-cache", "/mnt"],
        ["--kernel-cache", "--root", "/data", "--mountpoint", "/mnt"],
    ],
)
def test_the_directory_may_stand_anywhere(argv: list[str]) -> None:
    words = arguments(argv)
    assert words[words.index("--mountpoint") + 1] == "/mnt"
    assert len(words) == len(argv) + ("--mountpoint" not in argv)


def test_two_directories_are_refused() -> None:
    with pytest.raises(ConfigError, match="one mount"):
        arguments(["/a", "/b"])
    with pytest.raises(ConfigError, match="one mount"):
        arguments(["/a", "--mountpoint", "/b"])


@pytest.mark.parametrize(("given", "root"), [("/", "/"), ("/a/b", "/a/b"), ("//a//b/", "/a/b")])
def test_the_root_is_an_absolute_path_in_one_form(given: str, root: str) -> None:
    assert FuseSettings.model_validate({"mountpoint": "/mnt", "root": given}).root == root


@pytest.mark.parametrize("root", ["a", "", "/a/../b", "/./a"])
def test_any_other_root_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        FuseSettings.model_validate({"mountpoint": "/mnt", "root": root})


def test_the_mount_table_names_the_device_of_the_last_mount_on_a_path() -> None:
    table = rb"""22 1 254:0 / / rw - ext4 /dev/vda rw
40 22 0:51 / /mnt/a\040b rw,relatime - fuse.forebay forebay rw
41 22 0:52 / /mnt/twice rw - tmpfs tmpfs rw
42 41 0:53 / /mnt/twice ro,nosuid shared:5 - fuse.forebay forebay ro
"""
    assert device_of(table, b"/mnt/a b") == "0:51"
    assert device_of(table, b"/mnt/twice") == "0:53"
    assert device_of(table, b"/mnt") is None
