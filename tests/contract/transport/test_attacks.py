"""Attackers that come back as often as they are thrown out, on threads of their own, while others want to be served."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.runtime import Deadline
from forebay.testing import run
from forebay.testing.http2 import GET, headers, split_frames
from forebay.testing.transport import eventually, pair
from forebay.transport import Limits, frames
from forebay.transport.frames import ErrorCode, frame, rst_stream, window_update
from tests.contract.transport.test_abuse import ENDLESS_BLOCKS, FLOODS, HOLD

ATTACKERS = 3
CALLS = 10
CALL_S = 5.0
"""Far above what a call takes (a millisecond), far below what an occupied loop would make of it."""

MEMORY_BYTES_MAX = 96 << 20
BATCH = 200
WIDE = frames.settings([(frames.INITIAL_WINDOW_SIZE, (1 << 31) - 1)]) + window_update(0, (1 << 31) - 65_536)
ENDLESS = [*GET[:3], (":path", "/endless")]


def resident_bytes() -> int:
    """What this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Attacker(threading.Thread):
    """Connects, sends ``first`` and then batches of ``part(i)`` until it is thrown out; again and again.

    ``reads``: it also listens, and notes the code of each GOAWAY.
    """

    def __init__(
        self, address: str, part: Callable[[int], bytes] | None, *, first: bytes = b"", reads: bool = True
    ) -> None:
        super().__init__(name="attacker")
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._part, self._first, self._reads = part, first, reads
        self._is_over = threading.Event()
        self.codes: set[int] = set()
        self.connections = 0

    def run(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(self._address, timeout=1.0) as sock:
                self.connections += 1
                sock.sendall(frames.PREFACE + frames.settings(()) + self._first)
                self._attack(sock)

    def _attack(self, sock: socket.socket) -> None:
        at = 0
        while not self._is_over.is_set():
            if self._part is None:
                self._is_over.wait(0.05)
                continue
            try:
                sock.sendall(b"".join(map(self._part, range(at, at + BATCH))))
            finally:
                if self._reads:
                    self._listen(sock)
            at += BATCH

    def _listen(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            found, _ = split_frames(sock.recv(1 << 20))
            self.codes |= {f.code for f in found if f.kind == frames.GOAWAY}
        sock.settimeout(1.0)

    def stop(self) -> None:
        """Ends it."""
        self._is_over.set()
        self.join()


@contextlib.contextmanager
def attackers(address: str, part: Callable[[int], bytes] | None, *, first: bytes = b"") -> Iterator[list[Attacker]]:
    """Several at once."""
    found = [Attacker(address, part, first=first) for _ in range(ATTACKERS)]
    for attacker in found:
        attacker.start()
    try:
        yield found
    finally:
        for attacker in found:
            attacker.stop()


async def others_are_served(address: str) -> None:
    """Calls of somebody else come back in time, on connections old and new."""
    from forebay.transport import HttpClient

    for _ in range(2):
        client = HttpClient(None, connect_timeout_s=CALL_S)
        for _ in range(CALLS // 2):
            began_s = time.monotonic()
            reply = await client.fetch(address, "GET", "/", deadline=Deadline.after(2 * CALL_S))
            assert reply.status == 200
            assert time.monotonic() - began_s < CALL_S
            await asyncio.sleep(0.02)
        await client.close()


ATTACKS = FLOODS | {name: part for name, (part, _) in ENDLESS_BLOCKS.items()}


@pytest.mark.parametrize("name", ATTACKS)
def test_others_are_served_while_floods_come_back_again_and_again(name: str) -> None:
    async def main() -> None:
        async with pair() as p:
            before = resident_bytes()
            with attackers(p.peer, ATTACKS[name]) as found:
                await others_are_served(p.peer)
                await eventually(lambda: sum(a.connections for a in found) > 2 * ATTACKERS, timeout_s=20)
                assert resident_bytes() - before < MEMORY_BYTES_MAX
            assert set().union(*(a.codes for a in found)) <= {ErrorCode.ENHANCE_YOUR_CALM}
            await eventually(lambda: p.server.connections == 0, timeout_s=20)

    run(main())


SILENT: dict[str, bytes] = {
    "slow readers": WIDE + b"".join(headers(i, ENDLESS) for i in range(1, 101, 2)),
    "zero windows": frames.settings([(frames.INITIAL_WINDOW_SIZE, 0)])
    + b"".join(headers(i, ENDLESS) for i in range(1, 101, 2)),
    "requests without an end": b"".join(headers(i, HOLD, end=False) for i in range(1, 1001, 2)),
    "a header block without an end": frame(frames.HEADERS, 0, 1, b"\x82"),
}


@pytest.mark.parametrize("name", SILENT)
def test_others_are_served_beside_peers_that_take_and_give_nothing_and_these_are_let_go(name: str) -> None:
    async def main() -> None:
        limits = Limits(write_stall_timeout_s=1.0, keepalive_interval_s=1.0, keepalive_timeout_s=1.0)
        async with pair(limits=limits) as p:
            before = resident_bytes()
            with attackers(p.peer, None, first=SILENT[name]) as found:
                await eventually(lambda: p.server.connections >= ATTACKERS)
                await others_are_served(p.peer)
                assert resident_bytes() - before < MEMORY_BYTES_MAX
                # none of them answers a PING: their connections end, whatever hangs on them
                await eventually(lambda: p.server.connections == 0, timeout_s=20)
                assert all(a.connections for a in found)

    run(main())


def test_a_rapid_reset_leaves_no_handler_behind() -> None:
    async def main() -> None:
        async with pair() as p:
            with attackers(p.peer, lambda i: headers(2 * i + 1, HOLD) + rst_stream(2 * i + 1, 8)):
                await others_are_served(p.peer)
            await eventually(lambda: p.active() == 0, timeout_s=20)
            assert p.seen.finished == 0

    run(main())
