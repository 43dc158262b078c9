"""What was found to have changed, for those who watch: a bounded ring with cursors, told to long polls.

It knows what this master found, since it was started: a cursor of another master, or one that is older than the ring,
is answered with ``reset``. Nothing is concluded from silence: a change is found when somebody asks, and then told to
all.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from forebay.contracts import Change, ChangesReply, Mount
from forebay.errors import InvalidRequest, Overloaded
from forebay.runtime import Deadline
from forebay_master.namespace import MountTable, join


@dataclass(frozen=True)
class FeedLimits:
    """Bounds of the feed."""

    kept_max: int = 10_000
    """Changes in the ring."""
    reply_max: int = 1000
    """Changes in one reply."""
    waiters_max: int = 10_000
    """Long polls at one time."""


class Feed:
    """The changes of one master. For one event loop.

    Invariant: the ring holds the changes with the numbers ``first`` to ``last``, without a gap, at most ``kept_max``.
    """

    def __init__(self, limits: FeedLimits | None = None) -> None:
        self._limits = limits or FeedLimits()
        self._epoch = secrets.token_hex(8)
        self._ring: deque[Change] = deque(maxlen=self._limits.kept_max)
        self._last = 0
        self._news = asyncio.Event()
        self._is_closed = False
        self.waiting = 0

    @property
    def told(self) -> int:
        """Changes since the start."""
        return self._last

    def tell(self, changes: Iterable[Change]) -> None:
        """Adds changes, in their order."""
        before = self._last
        for change in changes:
            self._ring.append(change)
            self._last += 1
        if self._last != before:
            self._wake()

    def tell_mounts(self, old: MountTable, new: MountTable) -> None:
        """Adds what a change of the mount table means for names."""
        self.tell(table_changes(old, new))

    async def changes(self, after: str | None, wait_s: float) -> ChangesReply:
        """What came after the cursor, as soon as there is something, or nothing after ``wait_s``.

        Raises:
            InvalidRequest: no cursor. Overloaded: too many wait.
        """
        cursor = None if after is None else parse_cursor(after)
        if cursor is None or cursor[0] != self._epoch or not self._has_from(cursor[1]):
            return ChangesReply(cursor=self._cursor(self._last), reset=cursor is not None, changes=())
        seen = cursor[1]
        await self._wait(seen, Deadline.after(wait_s))
        if not self._has_from(seen):
            return ChangesReply(cursor=self._cursor(self._last), reset=True, changes=())
        changes = tuple(islice(self._ring, seen - self._first + 1, seen - self._first + 1 + self._limits.reply_max))
        return ChangesReply(cursor=self._cursor(seen + len(changes)), reset=False, changes=changes)

    def close(self) -> None:
        """Nobody waits any more, so that the server can drain."""
        self._is_closed = True
        self._wake()

    @property
    def _first(self) -> int:
        return self._last - len(self._ring) + 1

    def _has_from(self, seen: int) -> bool:
        """Whether everything after number ``seen`` is in the ring."""
        return self._first - 1 <= seen <= self._last

    def _cursor(self, number: int) -> str:
        return f"{self._epoch}-{number}"

    async def _wait(self, seen: int, deadline: Deadline) -> None:
        if self.waiting >= self._limits.waiters_max:
            raise Overloaded("too many wait for changes; try again", limit=self._limits.waiters_max)
        self.waiting += 1
        try:
            while self._last == seen and not self._is_closed and not deadline.expired:
                try:
                    await asyncio.wait_for(self._news.wait(), deadline.remaining_s())
                except TimeoutError:
                    return
        finally:
            self.waiting -= 1

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def parse_cursor(text: str) -> tuple[str, int]:
    """The epoch of a feed and a number in it.

    Raises:
        InvalidRequest: no cursor of ours.
    """
    epoch, _, number = text.partition("-")
    if not epoch.isalnum() or not number.isdecimal() or not number.isascii() or len(text) > 64:
        raise InvalidRequest("the cursor is malformed", reason="malformed_cursor")
    return epoch, int(number)


def table_changes(old: MountTable, new: MountTable) -> Iterator[Change]:
    """Everything below a path where a mount came, went or became another may have changed."""
    before, after = ({mount.path: mount for mount in table.mounts} for table in (old, new))
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            mount = after.get(path) or before[path]
            yield Change(mount_id=mount.mount_id, path=path, kind="dir")


def path_of(mount: Mount, directory: str, name: str = "") -> str:
    """The absolute path of ``name`` in a directory of a mount; without a name that of the directory."""
    path = join(mount.path, directory) if directory else mount.path
    return join(path, name) if name else path
