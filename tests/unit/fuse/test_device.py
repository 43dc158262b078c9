"""The loop's side of the device, with a socket that keeps messages apart in its place."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest

from forebay_fuse.device import Device
from forebay_fuse.journal import Buffer
from forebay_fuse.pipes import reply_pipe
from forebay_fuse.protocol.layout import Op
from forebay_fuse.splice import PAGE_BYTES, Pipe

LATER_S = 0.05
PATIENT_S = 10.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The device's end, which the device closes, and the kernel's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ours, theirs
    theirs.close()


def message(op: Op) -> bytes:
    """As much of a request as the device looks at."""
    return (40).to_bytes(4, "little") + int(op).to_bytes(4, "little") + bytes(32)


async def order(ends: tuple[socket.socket, socket.socket], first: Op, *, spin_s: float) -> list[str]:
    """What comes first: a second request, somewhat later, or the next turn of the loop."""
    ours, theirs = ends
    found, loop, done = list[str](), asyncio.get_running_loop(), asyncio.Event()
    later = threading.Timer(LATER_S, lambda: theirs.send(message(Op.GETATTR)))

    def handle(request: memoryview) -> None:
        if found:
            found.append("request")
            done.set()
            device.pause()
            return
        found.append("first")
        loop.call_soon(found.append, "turn")
        later.start()

    pipe = Pipe(lambda: reply_pipe(PAGE_BYTES))
    device = Device(ours.detach(), handle, pipe, Buffer(8192), spin_s=spin_s, burst_s=PATIENT_S)
    theirs.send(message(first))
    device.start()
    try:
        async with asyncio.timeout(PATIENT_S):
            await done.wait()
    finally:
        later.join()
        device.close()
    await asyncio.sleep(0)
    return found


def test_after_a_look_at_a_name_the_next_request_is_waited_for_in_the_same_turn(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    assert asyncio.run(order(ends, Op.LOOKUP, spin_s=PATIENT_S)) == ["first", "request", "turn"]


def test_without_time_to_wait_the_loop_goes_on(ends: tuple[socket.socket, socket.socket]) -> None:
    assert asyncio.run(order(ends, Op.LOOKUP, spin_s=0.0)) == ["first", "turn", "request"]


def test_after_a_read_nobody_is_waited_for(ends: tuple[socket.socket, socket.socket]) -> None:
    assert asyncio.run(order(ends, Op.READ, spin_s=PATIENT_S)) == ["first", "turn", "request"]
