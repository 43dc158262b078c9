"""Workers as real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

START_S = 60.0
LINES_MAX = 2000


@dataclass
class Process:
    """A running ``python -m forebay_worker``."""

    child: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    address: str = ""

    async def ended(self, *, seconds: float = START_S) -> int:
        """Its exit code."""
        async with asyncio.timeout(seconds):
            return await self.child.wait()

    def kill(self) -> None:
        """``kill -9``."""
        self.child.send_signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM."""
        self.child.terminate()


@asynccontextmanager
async def process(*flags: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """Starts a worker; it is killed at the end if it still runs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    environment |= env or {}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "forebay_worker", *flags, stderr=asyncio.subprocess.PIPE, env=environment
    )
    running = Process(child)
    reading = asyncio.ensure_future(_read(running))
    try:
        yield running
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        await reading


async def ready(running: Process) -> None:
    """Until it says that it is ready; fails with its log if it ends instead."""
    async with asyncio.timeout(START_S):
        while not running.address:
            assert running.child.returncode is None, "\n".join(running.lines)
            await asyncio.sleep(0.01)


async def _read(running: Process) -> None:
    assert running.child.stderr is not None
    async for raw in running.child.stderr:
        line = raw.decode()
        if len(running.lines) < LINES_MAX:
            running.lines.append(line.rstrip())
        if '"ready"' in line:
            record: dict[str, Any] = json.loads(line)
            running.address = record["address"]
