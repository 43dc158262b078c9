"""Memory that goes back to the system when the kernel has forgotten a dataset.

A hundred thousand inodes are half a million small objects. CPython's own allocator frees a MiB only when nothing at all
is left in it, and a few hundred objects that live on keep all of it (77 of 94 MiB after ``forget``, 44 at the start).
The C library's gives back page by page (46 MiB), and costs 5 to 10 % of the work on names: so the gateway runs with
``PYTHONMALLOC=malloc``, unless that variable says otherwise, and asks for it when much was let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

VARIABLE = "PYTHONMALLOC"
LOOK_S = 3.0
LET_GO = 10_000
"""Inodes and names that have gone since the memory was last given back: then it pays to do so again."""


def command(environ: Mapping[str, str], argv: Sequence[str]) -> list[str] | None:
    """The command that starts this process anew with the C library's allocator; ``None`` if it has been chosen."""
    return None if VARIABLE in environ or not argv else list(argv)


def choose_allocator() -> None:
    """Starts this process anew (same pid, same descriptors) if it is not yet chosen; comes back otherwise."""
    wanted = command(os.environ, sys.orig_argv)
    if wanted is None:
        return
    with contextlib.suppress(OSError):  # the interpreter cannot be started by this user: then as we are
        os.execve(sys.executable, wanted, {**os.environ, VARIABLE: "malloc"})


@dataclass(frozen=True, slots=True)
class Tide:
    """The most that was held since memory was last given back. Pure."""

    high: int = 0

    def after(self, held: int) -> tuple[Tide, bool]:
        """With so much held now; whether to give memory back."""
        if held + LET_GO <= self.high:
            return Tide(held), True
        return Tide(max(held, self.high)), False


async def watch(held: Callable[[], int], give_back: Callable[[], None], *, look_s: float = LOOK_S) -> None:
    """Looks for ever, and gives back in a thread: it takes some milliseconds."""
    tide = Tide()
    while True:
        await asyncio.sleep(look_s)
        tide, ebbs = tide.after(held())
        if ebbs:
            await asyncio.to_thread(give_back)
