"""Follows the masters' mount table and keeps the last good copy on disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from forebay.contracts import MountsReply, decode_stored, encode
from forebay.errors import ForebayError
from forebay.runtime import Deadline, logs
from forebay.transport import HttpClient
from forebay_worker.mounts import MountBook
from forebay_worker.under_stores import UfsPool

MOUNTS_PATH = "/v1/mounts"
FILE_NAME = "mounts.v1"
FILE_BYTES_MAX = 64 << 20
POLL_S = 25.0
"""How long a master may hold a poll."""

ANSWER_S = 10.0
"""How long it may take beyond that."""

RETRY_MIN_S, RETRY_MAX_S = 0.2, 5.0


class MountWatch:
    """Keeps ``book`` up to date. ``masters`` gives the addresses to ask, in order."""

    def __init__(
        self, book: MountBook, client: HttpClient, masters: Callable[[], Sequence[str]], folder: Path, pool: UfsPool
    ) -> None:
        self._book = book
        self._client = client
        self._masters = masters
        self._path = folder / FILE_NAME
        self._pool = pool
        self._changed = asyncio.Event()
        self._log = logs.get("forebay_worker.mounts")
        self.sees_master = False
        self.on_change: Callable[[], None] = lambda: None
        """Told after the book has taken another table."""

    async def load(self) -> None:
        """Takes the last good copy, if there is one."""
        try:
            data = await asyncio.to_thread(_read_bounded, self._path)
            self._book.take(decode_stored(MountsReply, data))
            self.on_change()
        except FileNotFoundError:
            return
        except (OSError, ForebayError) as e:
            self._log.warning("mount_copy_unusable", path=str(self._path), error=str(e))
            return
        await self._pool.keep_known()

    async def run(self) -> None:
        """Polls for ever."""
        pause_s = RETRY_MIN_S
        while True:
            if await self._ask_one():
                pause_s = RETRY_MIN_S
                continue
            self.sees_master = False
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    async def changed(self, version: int, timeout_s: float) -> None:
        """Until the book is newer than ``version``, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._book.version <= version:
                    await self._changed.wait()

    async def _ask_one(self) -> bool:
        for address in self._masters():
            try:
                await self._ask(address)
            except ForebayError as e:
                self._log.info("mounts_unreachable", master=address, error=e.message)
            else:
                return True
        return False

    async def _ask(self, master: str) -> None:
        path = f"{MOUNTS_PATH}?after={self._book.revision}&wait_s={POLL_S:g}" if self.sees_master else MOUNTS_PATH
        deadline = Deadline.after(POLL_S + ANSWER_S if self.sees_master else ANSWER_S)
        reply = await self._client.call(master, path, None, MountsReply, deadline=deadline, method="GET")
        self.sees_master = True
        if reply != self._book.reply:
            await self._take(reply)

    async def _take(self, reply: MountsReply) -> None:
        refused = await asyncio.to_thread(self._book.take, reply)  # follows links of local paths
        self._log.info("mounts", revision=reply.revision, mounts=len(reply.mounts))
        for mount_id, reason in refused.items():
            self._log.warning("mount_refused", mount_id=mount_id, reason=reason)
        self._changed.set()
        self._changed.clear()
        self.on_change()
        await self._pool.keep_known()
        try:
            await asyncio.to_thread(_replace, self._path, encode(reply))
        except OSError as e:
            self._log.warning("mount_copy_not_written", path=str(self._path), error=str(e))


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise OSError(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    return data


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(0o750, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.replace(new, path)
