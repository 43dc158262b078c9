"""Data helpers: what they are given they answer, what they do not answer comes back, and none is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from forebay.telemetry import quiet
from forebay.testing import run
from forebay_fuse import measuring
from forebay_fuse.helpers import DELAY_MAX_S, IN_HAND_MAX, Helpers, delay_s
from forebay_fuse.pipes import reply_pipe
from forebay_fuse.protocol import jobs
from forebay_fuse.splice import PAGE_BYTES, Pipe
from tests.unit.fuse.doubles import BLOCK_SIZE, FakeClient, Kernel

PIPE_BYTES = 64 * PAGE_BYTES
DATA = os.urandom(3 * PAGE_BYTES + 17)


class Device:
    """A pipe where the kernel would be, a block file, and helpers."""

    def __init__(self, folder: Path, count: int, overdue_s: float) -> None:
        self.reading, self.writing, _ = reply_pipe(PIPE_BYTES)
        (folder / "block").write_bytes(DATA)
        self.block = os.open(folder / "block", os.O_RDONLY)
        self.helpers = Helpers(self.writing, count, pipe_bytes=PIPE_BYTES, metrics=quiet().metrics, overdue_s=overdue_s)
        self.ends: dict[int, bool] = {}

    def hand(self, unique: int, offset: int, length: int) -> bool:
        """One READ."""

        def done(answered: bool) -> None:
            self.ends[unique] = answered

        return self.helpers.hand(unique, jobs.job(head_of(unique), [(offset, length)]), [self.block], done)

    async def ended(self, count: int) -> None:
        """Until so many jobs are over; the test's watchdog bounds it."""
        while len(self.ends) < count:
            await asyncio.sleep(0.001)

    async def alive(self, count: int, *, but: tuple[int, ...] = ()) -> None:
        """Until so many serve, none of them of ``but``."""
        while len(self.helpers) < count or set(but) & set(self.helpers.pids):
            await asyncio.sleep(0.001)


@asynccontextmanager
async def device(folder: Path, count: int = 1, *, overdue_s: float = 60.0) -> AsyncIterator[Device]:
    """Helpers that have started; afterwards their processes are gone."""
    made = Device(folder, count, overdue_s)
    made.helpers.start()
    try:
        await made.helpers.started()
        yield made
        made.helpers.validate()
    finally:
        pids = made.helpers.pids
        await made.helpers.close()
        for fd in (made.reading, made.writing, made.block):
            os.close(fd)
        assert not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()


def head_of(unique: int) -> bytes:
    """A reply's head, of which only the number matters here."""
    return bytes(8) + unique.to_bytes(8, "little")


def test_a_helper_sends_the_reply_out_of_the_block_file_and_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with device(tmp_path) as given:
            assert given.hand(7, 100, 5000)
            await given.ended(1)
            assert given.ends == {7: True}
            assert os.read(given.reading, 10_000) == head_of(7) + DATA[100:5100]
            assert given.helpers.in_hand == 0

    run(main())


def test_what_the_file_does_not_have_comes_back_and_the_next_reply_is_right(tmp_path: Path) -> None:
    async def main() -> None:
        async with device(tmp_path) as given:
            assert given.hand(1, len(DATA) - 10, 20)
            assert given.hand(2, 0, 10)
            await given.ended(2)
            assert given.ends == {1: False, 2: True}
            assert os.read(given.reading, 10_000) == head_of(2) + DATA[:10]

    run(main())


def test_what_a_helper_that_is_killed_had_in_hand_comes_back_and_another_is_started(tmp_path: Path) -> None:
    async def main() -> None:
        async with device(tmp_path) as given:
            (pid,) = given.helpers.pids
            os.kill(pid, signal.SIGSTOP)
            assert given.hand(1, 0, 10)
            assert given.hand(2, 0, 10)
            os.kill(pid, signal.SIGKILL)
            await given.ended(2)
            assert given.ends == {1: False, 2: False}
            await given.alive(1, but=(pid,))
            assert given.hand(3, 0, 10)
            await given.ended(3)
            assert given.ends[3]

    run(main())


def test_a_helper_that_hangs_is_killed_and_what_it_had_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with device(tmp_path, overdue_s=0.1) as given:
            (pid,) = given.helpers.pids
            os.kill(pid, signal.SIGSTOP)
            assert given.hand(1, 0, 10)
            await given.ended(1)
            assert given.ends == {1: False}
            await given.alive(1, but=(pid,))

    run(main())


def test_the_least_busy_helper_gets_the_next_and_a_full_one_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with device(tmp_path, 2) as given:
            for pid in given.helpers.pids:
                os.kill(pid, signal.SIGSTOP)
            taken = [given.hand(unique, 0, 1) for unique in range(1, 2 * IN_HAND_MAX + 2)]
            assert taken == [True] * 2 * IN_HAND_MAX + [False]
            given.helpers.validate()
            for pid in given.helpers.pids:
                os.kill(pid, signal.SIGCONT)
            await given.ended(2 * IN_HAND_MAX)
            assert all(given.ends.values())

    run(main())


def test_helpers_that_die_young_are_started_later_and_later() -> None:
    delays = [delay_s(deaths) for deaths in range(30)]
    assert delays[:2] == [0.0, 0.0]
    assert delays == sorted(delays)
    assert delays[-1] == DELAY_MAX_S


# -- which READs they get


class Hands:
    """Takes READs as helpers do, and answers when it is told to."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.given: list[tuple[int, bytes, Sequence[int], Callable[[bool], None]]] = []

    def hand(self, unique: int, message: bytes, fds: Sequence[int], done: Callable[[bool], None]) -> bool:
        """Keeps it."""
        if self.takes:
            self.given.append((unique, message, fds, done))
        return self.takes


FILE = bytes(range(256)) * 100


@pytest.mark.parametrize("answered", [True, False])
def test_a_read_of_local_blocks_is_handed_over_and_answered_here_if_it_comes_back(*, answered: bool) -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": FILE}, is_local=True)) as kernel:
            hands = kernel.gateway.files.hands = Hands()
            handle = await kernel.open("a")
            unique = kernel.read(handle, BLOCK_SIZE - 10, 20)
            assert unique not in kernel.sink.replies
            ((number, message, fds, done),) = hands.given
            assert (number, len(fds)) == (unique, 2)
            assert jobs.pieces_of(message)[1] == [(BLOCK_SIZE - 10, 10), (0, 10)]
            done(answered)
            assert (kernel.sink.elsewhere == [unique]) == answered
            if not answered:
                assert kernel.sink.replies[unique].body == FILE[BLOCK_SIZE - 10 : BLOCK_SIZE + 10]
            source = "helper" if answered else "spliced"
            assert kernel.metric(f'forebay_fuse_read_bytes_total{{source="{source}"}}') == 20
            assert kernel.client.readers[0].blocks[0].counted == 10
            await kernel.release(handle)

    run(main())


def test_a_read_that_nobody_takes_or_that_lies_elsewhere_is_answered_here() -> None:
    async def main() -> None:
        async with Kernel(FakeClient({"a": FILE}, is_local=True)) as kernel:
            kernel.gateway.files.hands = Hands(takes=False)
            handle = await kernel.open("a")
            assert kernel.sink.replies[kernel.read(handle, 0, 20)].body == FILE[:20]
            await kernel.release(handle)
        async with Kernel(FakeClient({"a": FILE})) as kernel:
            hands = kernel.gateway.files.hands = Hands()
            handle = await kernel.open("a")
            assert (await kernel.reply(kernel.read(handle, 0, 20))).body == FILE[:20]
            assert not hands.given
            await kernel.release(handle)

    run(main())


# -- whether they pay


@pytest.mark.parametrize(
    ("threads", "cpus", "count"), [(0, 64.0, 0), (2, 1.0, 2), ("auto", 3.9, 0), ("auto", 4.0, 2), ("auto", 64.0, 4)]
)
def test_auto_wants_helpers_from_four_cpus_on(threads: int | str, cpus: float, count: int) -> None:
    assert measuring.wanted(threads, cpus) == count


def test_the_measurement_moves_every_byte_by_both_ways_and_leaves_nothing_in_hand(tmp_path: Path) -> None:
    async def main() -> None:
        async with device(tmp_path, 2, overdue_s=0.5) as given:
            pipe = Pipe(lambda: reply_pipe(PIPE_BYTES))
            assert await measuring.is_better(given.helpers, pipe, length=8 * PAGE_BYTES, count=16) in (True, False)
            assert given.helpers.in_hand == 0
            # helpers that answer nothing are not better
            for pid in given.helpers.pids:
                os.kill(pid, signal.SIGSTOP)
            assert not await measuring.is_better(given.helpers, pipe, length=8 * PAGE_BYTES, count=16)
            pipe.close()

    run(main())
