"""Processes that scan directories for this one, started when several are wanted at once and ended when they idle."""

from __future__ import annotations

import asyncio
import marshal
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import cast

from forebay.ufs.scan import LENGTH_BYTES, Columns, OutsideError

PROGRAM = Path(__file__).with_name("scan.py")
SCANNERS_MAX = 4
IDLE_S = 10.0
REPLY_BYTES_MAX = 1 << 28


class Scanners:
    """At most ``count`` processes; who finds all busy waits. For one event loop; ``close`` at the end.

    Invariant: a process that is idle has no answer under way; one whose answer was not awaited is killed.
    """

    def __init__(self, count: int = 0, *, idle_s: float = IDLE_S) -> None:
        self._turns = asyncio.Semaphore(count or max(2, min(SCANNERS_MAX, os.cpu_count() or 1)))
        self._idle: list[Process] = []
        self._idle_s = idle_s
        self.processes: set[Process] = set()
        self._ending: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.processes)

    async def scan(self, root: str, directory: str, names_max: int) -> Columns | None:
        """`forebay.ufs.scan.scan`, elsewhere.

        Raises:
            OutsideError, OSError: as there; ``ChildProcessError`` when the process ended or cannot be started.
        """
        async with self._turns:
            process = self._idle.pop() if self._idle else await self._start()
            try:
                found, error = await _ask(process, marshal.dumps((root, directory, names_max)))
            except BaseException:
                await self._end(process)
                raise
            self._idle.append(process)
            self._end_later()
        if error is not None:
            raise OSError(error, os.strerror(error)) if error else OutsideError(directory)
        return found

    async def close(self) -> None:
        """Ends all processes; who waits for one is told that it ended."""
        if self._ending is not None:
            self._ending.cancel()
        for process in tuple(self.processes):
            await self._end(process)

    async def _start(self) -> Process:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(PROGRAM), stdin=PIPE, stdout=PIPE, limit=1 << 20
            )
        except OSError as e:
            raise ChildProcessError(f"no process for scanning: {e.strerror}") from e
        self.processes.add(process)
        return process

    async def _end(self, process: Process) -> None:
        self.processes.discard(process)
        if process in self._idle:
            self._idle.remove(process)
        if process.returncode is None:
            process.kill()
        await process.wait()

    def _end_later(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        self._ending = asyncio.get_running_loop().call_later(self._idle_s, self._end_idle)

    def _end_idle(self) -> None:
        for process in self._idle:
            if process.stdin is not None:
                process.stdin.close()  # it reads the end, and ends; the loop reaps it
            self.processes.discard(process)
        self._idle.clear()


async def _ask(process: Process, request: bytes) -> tuple[Columns | None, int | None]:
    if process.stdin is None or process.stdout is None:
        raise ChildProcessError("a scanning process has no pipes")
    try:
        process.stdin.write(len(request).to_bytes(LENGTH_BYTES, "big") + request)
        await process.stdin.drain()
        length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES), "big")
        if length > REPLY_BYTES_MAX:
            raise ChildProcessError("a scanning process gave nonsense")
        return cast("tuple[Columns | None, int | None]", marshal.loads(await process.stdout.readexactly(length)))
    except (asyncio.IncompleteReadError, ConnectionError) as e:
        raise ChildProcessError("a scanning process ended") from e
