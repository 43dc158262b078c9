"""Masters as real processes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

START_S = 30.0
LINES_MAX = 2000


@dataclass
class Process:
    """A running ``python -m forebay_master``; ``lines`` is its log."""

    child: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    address: str = ""

    async def ended(self, *, seconds: float = START_S) -> int:
        """Its exit code."""
        async with asyncio.timeout(seconds):
            return await self.child.wait()


@asynccontextmanager
async def process(*flags: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """Starts a master on any port; it is killed at the end if it still runs."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FOREBAY_", "AWS_"))}
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "forebay_master", "--port", "0", *flags),
        stderr=asyncio.subprocess.PIPE,
        env=clean | dict(environ or {}),
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
        if '"event": "ready"' in line:
            running.address = json.loads(line)["address"]
