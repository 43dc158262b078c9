"""Whether data helpers pay: replies from memory to memory, by them and by this process alone.

That is the copy which the kernel makes of a reply, and what it takes to hand a READ over, without a mount.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from forebay.runtime import logs
from forebay_fuse.helpers import OVERDUE_S, Helpers
from forebay_fuse.protocol import jobs
from forebay_fuse.splice import Piece, Pipe

CPUS_LEAST = 4.0
"""With fewer, helpers take from the readers what they give."""

HELPERS_MAX = 4
BETTER = 0.8
"""Part of the time alone that helpers may take: for less it is not worth so many processes."""

START_S = 5.0
LENGTH, COUNT, RUNS, TARGETS = 512 << 10, 64, 3, 8
LOG = logs.get(__name__)


def wanted(threads: int | str, cpus: float) -> int:
    """How many helpers to start. Pure; by ``auto`` half of the CPUs, if there are enough."""
    if not isinstance(threads, str):
        return threads
    return min(HELPERS_MAX, int(cpus) // 2) if cpus >= CPUS_LEAST else 0


async def is_better(helpers: Helpers, pipe: Pipe, *, length: int = LENGTH, count: int = COUNT) -> bool:
    """Whether ``count`` replies of ``length`` bytes leave clearly faster by helpers: the best of some runs each."""
    try:
        async with asyncio.timeout(START_S):
            await helpers.started()
    except TimeoutError:
        return False
    with _files(length) as (source, targets):
        alone_s = min(_alone(pipe, source, targets, length, count) for _ in range(RUNS))
        helped_s = float("inf")
        for _ in range(RUNS):
            run_s = await _helped(helpers, source, targets, length, count)
            if run_s == float("inf"):
                return False
            helped_s = min(helped_s, run_s)
    LOG.info("helpers_measured", alone_ms=round(alone_s * 1e3, 2), helped_ms=round(helped_s * 1e3, 2))
    return helped_s < alone_s * BETTER


@contextmanager
def _files(length: int) -> Iterator[tuple[int, list[int]]]:
    """A file of so many bytes, and some for replies."""
    files = [os.memfd_create("forebay-measure") for _ in range(1 + TARGETS)]
    try:
        os.pwrite(files[0], bytes(length), 0)
        yield files[0], files[1:]
    finally:
        for fd in files:
            os.close(fd)


def _header(number: int) -> bytes:
    return bytes(8) + number.to_bytes(8, "little")


def _alone(pipe: Pipe, source: int, targets: list[int], length: int, count: int) -> float:
    began_s = time.perf_counter()
    for number in range(count):
        header = _header(number)
        if not pipe.fill(header, [Piece(source, 0, length)]):
            return float("inf")
        pipe.send(targets[number % TARGETS], len(header) + length, offset=0)
    return time.perf_counter() - began_s


async def _helped(helpers: Helpers, source: int, targets: list[int], length: int, count: int) -> float:
    """Seconds that helpers take; for ever if one of the jobs fails."""
    ends: list[bool] = []
    ended = asyncio.Event()

    def done(answered: bool) -> None:
        ends.append(answered)
        ended.set()

    began_s = time.perf_counter()
    try:
        async with asyncio.timeout(OVERDUE_S):
            for number in range(1, count + 1):
                fds = (source, targets[number % TARGETS])
                while not helpers.hand(number, jobs.job(_header(number), [(0, length)]), fds, done):
                    ended.clear()
                    await ended.wait()
            while len(ends) < count:
                ended.clear()
                await ended.wait()
    except TimeoutError:
        return float("inf")
    return time.perf_counter() - began_s if all(ends) else float("inf")
