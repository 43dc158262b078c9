"""Pages of listings that are fetched while the page before is told: the master works while the gateway does."""

from __future__ import annotations

import asyncio

from forebay.contracts import ListReply
from forebay_fuse.sdk import Client

PAGE_NAMES = 2500
"""Names asked for at once: enough for a page to be worth its trip, few enough for two sides to work at a time."""

AHEAD_MAX = 64
"""Listings of one mount that have a page fetched ahead; others ask for it when they need it."""


class Coming:
    """A page that is on its way. ``asked``: up to which change (`recent`) the master may not have known them."""

    def __init__(self, token: str, asked: int, task: asyncio.Task[ListReply]) -> None:
        self.token, self.asked, self.task = token, asked, task

    @property
    def is_here(self) -> bool:
        """Whether it has come, and is good."""
        return self.task.done() and not self.task.cancelled() and self.task.exception() is None


class Ahead:
    """Fetches pages ahead. It owns the tasks: whoever has a `Coming` takes its result, or lets it go by ``drop``."""

    def __init__(self, client: Client, limit: int = AHEAD_MAX) -> None:
        self._client, self._limit = client, limit
        self._tasks: set[asyncio.Task[ListReply]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def fetch(self, path: str, token: str, asked: int) -> Coming | None:
        """Begins; ``None`` if too many are under way."""
        if len(self._tasks) >= self._limit:
            return None
        task = asyncio.create_task(self._client.list_page(path, token, PAGE_NAMES), name=f"page-ahead-{path}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return Coming(token, asked, task)

    def drop(self, coming: Coming) -> None:
        """Nobody wants it any more."""
        coming.task.cancel()

    def _ended(self, task: asyncio.Task[ListReply]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # is told to who needs the page; who needs none need not know

    async def close(self) -> None:
        """Cancels all."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
