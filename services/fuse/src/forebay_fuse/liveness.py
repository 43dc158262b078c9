"""Whether our own mount answers, for ``/readyz``: `probe` in a process of its own, for who touches a mount that hangs
waits for ever, and this process would wait for itself."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path

from forebay_fuse import probe

FRESH_S = 1.0
"""How long an answer stands. Whoever asks meanwhile gets the same, and so does who asks while a probe is under way."""

SPARE_S = 1.0
"""Time beyond its deadline for a probe to start and to end."""


class Liveness:
    """Invariant: at most one probe is under way."""

    def __init__(self, deadline_s: float = probe.DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._turn = asyncio.Lock()
        self._asked_s = float("-inf")
        self._wrong = ""

    async def ask(self, mountpoint: Path) -> str:
        """What is wrong with the mount; an empty text: nothing. Answers within the deadline and some seconds."""
        came_s = time.monotonic()
        async with self._turn:
            if came_s - self._asked_s > FRESH_S:
                self._wrong = await self._probe(mountpoint)
                self._asked_s = time.monotonic()
            return self._wrong

    async def _probe(self, mountpoint: Path) -> str:
        command = [sys.executable, "-I", "-S", probe.__file__, "--deadline", str(self._deadline_s), str(mountpoint)]
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL, stderr=pipe)
        except OSError as e:
            return f"the probe did not start: {e.strerror}"
        try:
            async with asyncio.timeout(self._deadline_s + SPARE_S):
                _, said = await process.communicate()
        except TimeoutError:
            return f"no answer within {self._deadline_s} s"
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode == probe.ALIVE:
            return ""
        return said.decode(errors="replace").strip() or "the probe died"
