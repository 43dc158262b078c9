"""The metadata cache: what the master said of a path, bounded in count and time. Pure: the time comes in.

What the entries of a page have in common is held once.

Invariants (``validate``): (1) never more entries than ``entries_max``; (2) an answer older than the one held (by
``synced_at_s``) never replaces it; (3) nothing is kept longer than the reply's own ``valid_s``, and what is given out
says how much of that is left: whoever keeps it further (the kernel) must not begin the time anew.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from forebay.contracts import Entry, ListReply, LookupReply
from forebay.errors import NotFound

GUARD_S = 5.0
"""How long an answer that is no longer used still guards against older ones, before `MetadataCache.sweep` drops it."""


class Held(Struct, frozen=True, gc=False):
    """One answer, as of now: ``reply`` is ``None`` when the path was not there, and ``missing`` says so."""

    reply: LookupReply | None
    missing: NotFound | None = None


class _Heard(Struct, frozen=True, gc=False):
    """What entries that came together share. ``until_s`` ends their use, not their memory; ``heard_s`` is when."""

    synced_at_s: float
    until_s: float
    heard_s: float
    valid_s: float | None
    mount_id: str | None
    missing: NotFound | None = None


class _Kept(Struct, frozen=True, gc=False):
    heard: _Heard
    entry: Entry | None


class MetadataCache:
    """Positive and negative answers by absolute path, least recently used out first."""

    def __init__(self, *, entries_max: int, expire_s: float, negative_s: float) -> None:
        self._entries_max = entries_max
        self._expire_s = expire_s
        self._negative_s = negative_s
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._peak = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, path: str, now_s: float) -> Held | None:
        """What is held and still in time, with the time that is left of it; else ``None``."""
        kept = self._kept.get(path)
        if kept is None or now_s >= kept.heard.until_s:
            return None
        self._kept.move_to_end(path)
        return _aged(kept, now_s)

    def put(self, path: str, reply: LookupReply, now_s: float) -> LookupReply:
        """Keep ``reply`` unless a newer answer is held; gives the one to use.

        An expired answer is still remembered for this comparison: a master that lags must not bring an old version
        back just because ours timed out a moment ago.
        """
        kept = self._kept.get(path)
        if kept is not None and kept.heard.synced_at_s > reply.synced_at_s:
            older = _aged(kept, now_s).reply
            return older if older is not None else reply
        heard = self._heard(reply.synced_at_s, reply.valid_s, reply.mount_id, now_s)
        self._store(path, _Kept(heard, reply.entry))
        return reply

    def put_page(self, path: str, page: ListReply, now_s: float) -> None:
        """As ``put``, for each entry of a page of the directory ``path``."""
        if not self._entries_max:
            return
        base = path.rstrip("/")
        heard = self._heard(page.synced_at_s, page.valid_s, page.mount_id, now_s)
        for entry in page.entries:
            name = f"{base}/{entry.name}"
            kept = self._kept.get(name)
            if kept is None or kept.heard.synced_at_s <= page.synced_at_s:
                self._store(name, _Kept(heard, entry))

    def _heard(self, synced_at_s: float, valid_s: float | None, mount_id: str | None, now_s: float) -> _Heard:
        ttl = self._expire_s if valid_s is None else min(self._expire_s, valid_s)
        return _Heard(synced_at_s, now_s + ttl, now_s, valid_s, mount_id)

    def put_missing(self, path: str, error: NotFound, now_s: float, *, synced_at_s: float) -> None:
        """Remember for a short time that ``path`` is not there, at most the ``valid_s`` among the error's details."""
        kept = self._kept.get(path)
        if kept is None or kept.heard.synced_at_s <= synced_at_s:
            valid_s = error.details.get("valid_s")
            ttl = min(self._negative_s, valid_s) if isinstance(valid_s, int | float) else self._negative_s
            self._store(path, _Kept(_Heard(synced_at_s, now_s + ttl, now_s, None, None, error), None))

    def expire(self, path: str) -> None:
        """The next ``get`` misses; what was held still guards against older answers."""
        if (kept := self._kept.get(path)) is not None:
            heard = kept.heard
            until_s = min(heard.until_s, heard.heard_s)
            ended = _Heard(heard.synced_at_s, until_s, heard.heard_s, heard.valid_s, heard.mount_id, heard.missing)
            self._kept[path] = _Kept(ended, kept.entry)

    def expire_below(self, path: str) -> None:
        """As ``expire``, for ``path`` and everything below it."""
        head = path if path == "/" else f"{path}/"
        for each in [each for each in self._kept if each == path or each.startswith(head)]:
            self.expire(each)

    def sweep(self, now_s: float) -> None:
        """Drops what has been of no use for `GUARD_S`, and the memory of a table that once was larger."""
        while self._kept:
            path, kept = next(iter(self._kept.items()))
            if kept.heard.until_s + GUARD_S > now_s:
                break
            del self._kept[path]
        if len(self._kept) * 4 <= self._peak:
            self._kept, self._peak = OrderedDict(self._kept), len(self._kept)

    def _store(self, path: str, kept: _Kept) -> None:
        self._kept[path] = kept
        self._kept.move_to_end(path)
        if len(self._kept) > self._entries_max:
            self._kept.popitem(last=False)
        self._peak = max(self._peak, len(self._kept))

    def validate(self) -> None:
        """Checks invariant 1; the others are checked by tests of ``put``."""
        assert len(self._kept) <= self._entries_max


def _aged(kept: _Kept, now_s: float) -> Held:
    """What is kept, with ``valid_s`` as it is now."""
    heard = kept.heard
    if heard.missing is not None or kept.entry is None:
        return Held(None, _aged_missing(heard.missing, now_s - heard.heard_s))
    valid_s = None if heard.valid_s is None else max(0.0, heard.valid_s - (now_s - heard.heard_s))
    return Held(LookupReply(entry=kept.entry, mount_id=heard.mount_id, synced_at_s=heard.synced_at_s, valid_s=valid_s))


def _aged_missing(missing: NotFound | None, age_s: float) -> NotFound | None:
    valid_s = missing.details.get("valid_s") if missing is not None else None
    if missing is None or not isinstance(valid_s, int | float):
        return missing
    return NotFound(missing.message, **{**missing.details, "valid_s": max(0.0, valid_s - age_s)})
