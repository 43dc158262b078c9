"""The keeper as a process: what it is given it hands on, to one gateway at a time, and it ends with the mount."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forebay.errors import NotReady
from forebay.runtime import Deadline
from forebay.testing.cluster import eventually
from forebay_fuse import keeper as module
from forebay_fuse.guard import DEATHS_MAX, SHORT_LIFE_S, Deaths
from forebay_fuse.keeping import Keeping

TIMEOUT_S = 20.0


@contextmanager
def a_keeper(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that listens. Run as a file: it needs nothing that is installed."""
    command = [sys.executable, "-I", "-S", module.__file__, str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            eventually(path.is_socket, what="the socket")
            yield process
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keeper.sock"


def a_file(text: bytes) -> int:
    fd = os.memfd_create("x")
    os.write(fd, text)
    return fd


async def connect(path: Path) -> Keeping:
    return await Keeping.connect(path, Deadline.after(TIMEOUT_S))


def test_what_is_held_is_there_for_the_next_gateway(path: Path) -> None:
    async def run() -> None:
        first = await connect(path)
        assert first.held == ()
        await first.hold([a_pipe(), a_file(b"one"), a_file(b"two")])
        first.close()  # as a process that dies does
        second = await connect(path)
        assert [os.pread(fd, 9, 0) for fd in second.held[1:]] == [b"one", b"two"]
        second.close()

    with a_keeper(path):
        asyncio.run(run())


def a_pipe() -> int:
    """In place of ``/dev/fuse``: its other end is open, so it has no error to tell."""
    reading, _ = os.pipe()
    return reading


def test_the_next_gateway_waits_until_the_one_before_has_ended(path: Path) -> None:
    async def run() -> None:
        first = await connect(path)
        waiting = asyncio.create_task(connect(path))
        await asyncio.sleep(0.1)  # time in which it could come through, if it were let
        assert not waiting.done()
        first.close()
        second = await asyncio.wait_for(waiting, TIMEOUT_S)
        second.close()

    with a_keeper(path):
        asyncio.run(run())


def test_it_ends_when_it_is_told_that_the_mount_is_over_and_takes_its_socket_along(path: Path) -> None:
    async def run() -> None:
        gateway = await connect(path)
        await gateway.hold([a_pipe()])
        await gateway.over()
        gateway.close()

    with a_keeper(path) as process:
        asyncio.run(run())
        assert process.wait(TIMEOUT_S) == 0
        assert not path.exists()


def test_it_ends_when_the_kernel_ends_what_it_holds(path: Path) -> None:
    reading, writing = os.pipe()

    async def run() -> None:
        gateway = await connect(path)
        await gateway.hold([writing])
        gateway.close()

    with a_keeper(path) as process:
        asyncio.run(run())
        os.close(writing)
        os.close(reading)  # a pipe nobody reads from is POLLERR, as an unmounted /dev/fuse is
        assert process.wait(TIMEOUT_S) == 0


def test_sigterm_ends_it_and_a_killed_ones_socket_is_taken_over(path: Path) -> None:
    with a_keeper(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(TIMEOUT_S)
    assert path.is_socket()
    with a_keeper(path) as process:
        asyncio.run(closed(path))
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0
    assert not path.exists()


async def closed(path: Path) -> None:
    (await connect(path)).close()


def test_the_socket_is_for_our_user_alone(path: Path) -> None:
    with a_keeper(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_stranger_gets_nothing_even_where_the_socket_is_open_to_him(path: Path) -> None:
    async def run() -> None:
        gateway = await connect(path)
        await gateway.hold([a_pipe()])
        gateway.close()

    with a_keeper(path):
        asyncio.run(run())
        os.chmod(path, 0o666)
        for each in [each for each in path.parents if each.stat().st_mode & 0o777 == 0o700]:
            os.chmod(each, 0o755)
        assert what_a_stranger_gets(path) == (b"", [])
        asyncio.run(closed(path))  # and it serves us as before


def what_a_stranger_gets(path: Path) -> tuple[bytes, list[int]]:
    """Connects as another user."""
    os.seteuid(65534)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(TIMEOUT_S)
            sock.connect(str(path))  # the kernel notes the effective user
            message, fds, _, _ = socket.recv_fds(sock, 64, 8)
            return message, list(fds)
    finally:
        os.seteuid(0)


def test_a_second_keeper_on_one_socket_is_refused(path: Path) -> None:
    with a_keeper(path):
        done = subprocess.run(
            [sys.executable, module.__file__, str(path)], capture_output=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 2
        assert b"another keeper is there" in done.stderr


def test_a_path_that_is_too_long_for_a_socket_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="at most 107 bytes"):
        module.listen(str(tmp_path / ("x" * 100)))


def test_without_a_keeper_a_gateway_waits_for_its_time_and_says_so(path: Path) -> None:
    with pytest.raises(NotReady, match="no keeper at"):
        asyncio.run(Keeping.connect(path, Deadline.after(0.0)))


def test_who_speaks_no_keeper_is_none(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(str(path))
        other.listen()

        async def run() -> None:
            waiting = asyncio.create_task(Keeping.connect(path, Deadline.after(0.0)))
            gateway, _ = await asyncio.to_thread(other.accept)
            gateway.close()
            await waiting

        with pytest.raises(NotReady, match="hung up"):
            asyncio.run(run())


def test_a_gateway_that_lived_is_started_again_at_once_and_one_that_dies_young_ever_later() -> None:
    assert Deaths(7).after(SHORT_LIFE_S) == (Deaths(1), 0.0)
    deaths, delays = Deaths(), list[float]()
    while True:
        deaths, delay_s = deaths.after(0.1)
        if delay_s is None:
            break
        delays.append(delay_s)
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert len(delays) == DEATHS_MAX
