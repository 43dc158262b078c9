"""``forebay up`` with what cannot work: one line that names it, an exit code, and nothing left behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.integration.cli.kit import Ended, up

pytestmark = [pytest.mark.slow]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a file."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "file").write_text("x")
    return folder


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A directory that would do."""
    folder = tmp_path / "mount"
    folder.mkdir()
    return folder


def refused(ended: Ended, *words: str) -> None:
    """Ended as a wrong setting does, with one line of explanation."""
    assert ended.code == 2, ended.said
    assert ended.last.startswith("error: "), ended.said
    assert "Traceback" not in ended.said
    for word in words:
        assert word in ended.last


def test_a_source_folder_that_is_a_file_or_elsewhere_is_named(tmp_path: Path, source: Path, mount: Path) -> None:
    refused(up(tmp_path, source / "file", "--mount", mount), "SOURCE", "Not a directory")
    refused(up(tmp_path, "1st://host/x", "--mount", mount), "SOURCE", "1st://host/x")


def test_a_mount_point_that_is_a_file_taken_or_inside_the_source_is_named(
    tmp_path: Path, source: Path, mount: Path
) -> None:
    refused(up(tmp_path, source, "--mount", source / "file"), "--mount", "no directory")
    refused(up(tmp_path, source, "--mount", "/proc"), "--mount", "mount point already")
    (source / "inner").mkdir()
    refused(up(tmp_path, source, "--mount", source / "inner"), "--mount", "overlap")


def test_a_port_that_is_taken_is_named(tmp_path: Path, source: Path, mount: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(up(tmp_path, source, "--mount", mount, "--port", port), "--port", port, "in use")
    assert list(mount.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "words"),
    [(("--mem", "1000TiB"), ("tier_dirs",)), (("--registry", "carrier-pigeon://x"), ("registry", "carrier-pigeon"))],
)
def test_a_setting_with_an_impossible_value_is_named(
    tmp_path: Path, source: Path, mount: Path, args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(up(tmp_path, source, "--mount", mount, *args), *words)
    assert not os.path.ismount(mount)


def test_an_unknown_flag_and_an_unknown_variable_are_named(tmp_path: Path, source: Path, mount: Path) -> None:
    flag = up(tmp_path, source, "--mount", mount, "--wokers", "2")
    assert flag.code == 2
    assert "--wokers" in flag.said
    refused(
        up(tmp_path, source, "--mount", mount, env={"FOREBAY_LOG_LEVLE": "debug"}),
        "FOREBAY_LOG_LEVLE",
        "did you mean FOREBAY_LOG_LEVEL",
    )
