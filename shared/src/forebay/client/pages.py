"""Pages of directories that were listed, within named limits, and when a walk over many directories is under way. Pure:
the time comes in.

A listing that is asked for again while it is in time costs no call. Whoever has listed a directory and then two of the
directories in it, one after the other, is walking: then the pages of the following ones are fetched together.

Invariant (``validate``): at most ``entries_max`` entries are held.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from forebay.contracts import DirectoryPage, ListReply

WALK_AFTER = 1
"""Directories of one parent that are listed singly before the rest is fetched together."""

Key = tuple[str, str | None, int]
"""Path, page token, limit."""


@dataclass
class _Held:
    reply: ListReply
    heard_s: float
    until_s: float
    walked: set[str] = field(default_factory=set)


class PageCache:
    """Pages by directory, token and limit, least recently used out first."""

    def __init__(self, *, entries_max: int, expire_s: float) -> None:
        self._entries_max = entries_max
        self._expire_s = expire_s
        self._held: OrderedDict[Key, _Held] = OrderedDict()
        self._by_path: dict[str, set[Key]] = {}
        self.entries = 0

    def get(self, path: str, token: str | None, limit: int, now_s: float) -> ListReply | None:
        """The page if it is held and in time, with what is left of the master's word on it."""
        key = (path, token, limit)
        held = self._held.get(key)
        if held is None:
            return None
        if now_s >= held.until_s:
            self._drop(key)
            return None
        self._held.move_to_end(key)
        valid_s = held.reply.valid_s
        if valid_s is None:
            return held.reply
        return msgspec.structs.replace(held.reply, valid_s=max(0.0, valid_s - (now_s - held.heard_s)))

    def put(self, path: str, token: str | None, limit: int, reply: ListReply, now_s: float) -> None:
        """Keeps a page for as long as it says, and at most for the cache's own time."""
        ttl_s = self._expire_s if reply.valid_s is None else min(self._expire_s, reply.valid_s)
        key, size = (path, token, limit), len(reply.entries) + 1
        self._drop(key)
        if ttl_s <= 0 or size > self._entries_max:
            return
        self._held[key] = _Held(reply, now_s, now_s + ttl_s)
        self._by_path.setdefault(path, set()).add(key)
        self.entries += size
        while self.entries > self._entries_max:
            self._drop(next(iter(self._held)))

    def is_walk(self, path: str, limit: int, now_s: float) -> bool:
        """Whether whoever asks for the directory ``path`` is walking over its parent; notes that it was asked for."""
        parent, _, name = path.rpartition("/")
        held = self._held.get((parent or "/", None, limit))
        if held is None or now_s >= held.until_s or path == "/":
            return False
        is_walk = len(held.walked) >= WALK_AFTER and name not in held.walked
        held.walked.add(name)
        return is_walk

    def forget(self, path: str) -> None:
        """Drops what lists ``path``, and what was listed of it."""
        for each in (path, path.rpartition("/")[0] or "/"):
            for key in tuple(self._by_path.get(each, ())):
                self._drop(key)

    def forget_below(self, path: str) -> None:
        """As ``forget``, for ``path`` and everything below it."""
        head = path if path == "/" else f"{path}/"
        self.forget(path)
        for each in [each for each in self._by_path if each.startswith(head)]:
            for key in tuple(self._by_path.get(each, ())):
                self._drop(key)

    def sweep(self, now_s: float) -> None:
        """Drops the pages whose time is over: nobody may ask for them again."""
        for key in [key for key, held in self._held.items() if now_s >= held.until_s]:
            self._drop(key)

    def validate(self) -> None:
        """Checks the invariant, and that the two tables agree."""
        assert self.entries == sum(len(held.reply.entries) + 1 for held in self._held.values()) <= self._entries_max
        assert set(self._held) == {key for keys in self._by_path.values() for key in keys}

    def _drop(self, key: Key) -> None:
        held = self._held.pop(key, None)
        if held is None:
            return
        self.entries -= len(held.reply.entries) + 1
        keys = self._by_path[key[0]]
        keys.discard(key)
        if not keys:
            del self._by_path[key[0]]


def as_reply(page: DirectoryPage) -> ListReply:
    """A whole directory's page out of a tree's."""
    return ListReply(
        entries=page.entries,
        mount_id=page.mount_id,
        next_page_token=None,
        synced_at_s=page.synced_at_s,
        valid_s=page.valid_s,
        accessed=page.accessed,
    )
