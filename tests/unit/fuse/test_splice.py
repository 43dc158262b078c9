"""Replies out of files: whole or not at all, never waiting, and the pipe is empty afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay_fuse.pipes import reply_pipe
from forebay_fuse.splice import PAGE_BYTES, Piece, Pipe, pages

SLOTS = 16
HEADER = b"a header of no. 16"


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe of a few pages."""
    made = Pipe(lambda: reply_pipe(SLOTS * PAGE_BYTES))
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    """An open file of some pages and a bit."""
    data = os.urandom(10 * PAGE_BYTES + 100)
    (tmp_path / "file").write_bytes(data)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    yield fd, data
    os.close(fd)


def sent(pipe: Pipe, length: int) -> bytes:
    """What the pipe gives to a device."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    try:
        pipe.send(writing, length)
        return os.read(reading, length + 1)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 1), (0, PAGE_BYTES), (100, 3 * PAGE_BYTES), (4095, 2)])
def test_a_reply_is_its_header_and_the_bytes_of_the_file(
    pipe: Pipe, file: tuple[int, bytes], offset: int, length: int
) -> None:
    fd, data = file
    for _ in range(3):
        assert pipe.fill(HEADER, [Piece(fd, offset, length)])
        assert sent(pipe, len(HEADER) + length) == HEADER + data[offset : offset + length]


def test_a_reply_may_come_from_several_files(pipe: Pipe, file: tuple[int, bytes]) -> None:
    fd, data = file
    assert pipe.fill(HEADER, [Piece(fd, PAGE_BYTES - 10, 10), Piece(fd, 0, 10), Piece(fd, 7, 3)])
    expected = HEADER + data[PAGE_BYTES - 10 : PAGE_BYTES] + data[:10] + data[7:10]
    assert sent(pipe, len(expected)) == expected


def test_what_the_file_does_not_have_is_refused_and_the_next_reply_is_right(
    pipe: Pipe, file: tuple[int, bytes]
) -> None:
    fd, data = file
    assert not pipe.fill(HEADER, [Piece(fd, len(data) - 10, 20)])
    assert not pipe.fill(HEADER, [Piece(fd, 0, 10), Piece(-1, 0, 10)])
    assert pipe.fill(HEADER, [Piece(fd, 0, 10)])
    assert sent(pipe, len(HEADER) + 10) == HEADER + data[:10]


def test_a_reply_that_does_not_fit_is_refused_without_waiting(pipe: Pipe, file: tuple[int, bytes]) -> None:
    fd, _ = file
    assert pipe.pages_max == SLOTS - 1
    assert not pipe.fill(HEADER, [Piece(fd, 0, 8 * PAGE_BYTES)] * 2)
    assert pipe.fill(HEADER, [Piece(fd, 0, 7 * PAGE_BYTES), Piece(fd, 0, 8 * PAGE_BYTES)])
    with open(os.devnull, "wb") as sink:
        pipe.send(sink.fileno(), len(HEADER) + 15 * PAGE_BYTES)


def test_a_device_that_refuses_leaves_the_pipe_empty(pipe: Pipe, file: tuple[int, bytes]) -> None:
    fd, data = file
    assert pipe.fill(HEADER, [Piece(fd, 0, 10)])
    with pytest.raises(OSError, match="Bad file descriptor"):
        pipe.send(fd, len(HEADER) + 10)  # only open for reading
    assert pipe.fill(HEADER, [Piece(fd, 5, 10)])
    assert sent(pipe, len(HEADER) + 10) == HEADER + data[5:15]


@pytest.mark.parametrize(
    ("offset", "length", "count"), [(0, 0, 0), (0, 1, 1), (0, 4096, 1), (1, 4096, 2), (4095, 2, 2), (8192, 8192, 2)]
)
def test_pages_are_counted_as_they_are_touched(offset: int, length: int, count: int) -> None:
    assert pages(Piece(0, offset, length)) == count
