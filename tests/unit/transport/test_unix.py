"""Unix sockets: paths of any length, what stands in the way, what a dead server left."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from forebay.transport.unix import PATH_BYTES_MAX, listening, reached


def deep(folder: Path) -> Path:
    for _ in range(3):
        folder /= "d" * 60
    folder.mkdir(parents=True)
    return folder


def ask(path: Path) -> None:
    with reached(str(path)) as name, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(name)


@pytest.mark.parametrize("is_deep", [False, True])
def test_a_socket_is_reached_however_long_its_path_is(tmp_path: Path, is_deep: bool) -> None:
    path = (deep(tmp_path) if is_deep else tmp_path) / "here.sock"
    assert not is_deep or len(str(path)) > PATH_BYTES_MAX
    with listening(path, 0o660):
        ask(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_nobody_is_reached_through_a_symlink(tmp_path: Path) -> None:
    path, link = tmp_path / "here.sock", tmp_path / "link.sock"
    link.symlink_to(path)
    with listening(path, 0o660), pytest.raises(OSError, match="Socket operation on non-socket"):
        ask(link)


def test_a_plain_file_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Socket operation on non-socket"):
        ask(tmp_path / "file")
    with pytest.raises(OSError, match="is no socket"):
        listening(tmp_path / "file", 0o660)


def test_what_a_dead_server_left_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "here.sock"
    listening(path, 0o660).close()
    with listening(path, 0o660):
        with pytest.raises(OSError, match="somebody listens there"):
            listening(path, 0o660)
        ask(path)
