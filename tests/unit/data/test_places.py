"""Which file system a path is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.data.errors import NotOurMount
from forebay.data.places import FolderFiles, MountFiles, mount_type

MOUNTINFO = """\
21 1 254:1 / / rw,relatime - ext4 /dev/vda rw
30 21 0:50 / {here} rw - tmpfs tmpfs rw
31 30 0:51 / {here}/data ro,nosuid shared:2 - fuse.forebay forebay ro
"""


def test_the_innermost_mount_says_the_type(tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "database").mkdir()
    text = MOUNTINFO.format(here=tmp_path)

    assert mount_type(tmp_path / "data" / "train", text) == "fuse.forebay"
    assert mount_type(tmp_path / "database", text) == "tmpfs"
    assert mount_type(tmp_path / "nothing", text) is None


def test_a_folder_that_is_no_mount_of_ours_is_refused_when_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotOurMount, match="no mount of Forebay's"):
        MountFiles(tmp_path)


def test_a_folder_lists_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).write_text("x")
    (tmp_path / "folder").mkdir()

    assert FolderFiles(tmp_path).names() == ["a", "b"]
