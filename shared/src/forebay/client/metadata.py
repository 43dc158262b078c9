"""The metadata cache: what the master said of a path, bounded in count and time. Pure: the time comes in.

Invariants (``validate``): (1) never more entries than ``entries_max``; (2) an answer older than the one held (by
``synced_at_s``) never replaces it; (3) nothing is kept longer than the reply's own ``valid_s``, and what is given out
says how much of that is left: whoever keeps it further (the kernel) must not begin the time anew.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from msgspec import structs

from forebay.contracts import LookupReply
from forebay.errors import NotFound


@dataclass(frozen=True)
class Held:
    """One answer: ``reply`` is ``None`` when the path was not there. ``until_s`` ends its use, not its memory;
    ``heard_s`` is when it came."""

    reply: LookupReply | None
    synced_at_s: float
    until_s: float
    heard_s: float
    missing: NotFound | None = None

    def aged(self, now_s: float) -> Held:
        """The same with ``valid_s`` as it is now."""
        if self.reply is None:
            return replace(self, missing=_aged_missing(self.missing, now_s - self.heard_s))
        if self.reply.valid_s is None:
            return self
        left_s = max(0.0, self.reply.valid_s - (now_s - self.heard_s))
        return replace(self, reply=structs.replace(self.reply, valid_s=left_s))


def _aged_missing(missing: NotFound | None, age_s: float) -> NotFound | None:
    valid_s = missing.details.get("valid_s") if missing is not None else None
    if missing is None or not isinstance(valid_s, int | float):
        return missing
    return NotFound(missing.message, **{**missing.details, "valid_s": max(0.0, valid_s - age_s)})


class MetadataCache:
    """Positive and negative answers by absolute path, least recently used out first."""

    def __init__(self, *, entries_max: int, expire_s: float, negative_s: float) -> None:
        self._entries_max = entries_max
        self._expire_s = expire_s
        self._negative_s = negative_s
        self._held: OrderedDict[str, Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, path: str, now_s: float) -> Held | None:
        """What is held and still in time, with the time that is left of it; else ``None``."""
        held = self._held.get(path)
        if held is None or now_s >= held.until_s:
            return None
        self._held.move_to_end(path)
        return held.aged(now_s)

    def put(self, path: str, reply: LookupReply, now_s: float) -> LookupReply:
        """Keep ``reply`` unless a newer answer is held; gives the one to use.

        An expired answer is still remembered for this comparison: a master that lags must not bring an old version
        back just because ours timed out a moment ago.
        """
        held = self._held.get(path)
        if held is not None and held.synced_at_s > reply.synced_at_s:
            older = held.aged(now_s).reply
            return older if older is not None else reply
        ttl = self._expire_s if reply.valid_s is None else min(self._expire_s, reply.valid_s)
        self._store(path, Held(reply, reply.synced_at_s, now_s + ttl, now_s))
        return reply

    def put_missing(self, path: str, error: NotFound, now_s: float, *, synced_at_s: float) -> None:
        """Remember for a short time that ``path`` is not there, at most the ``valid_s`` among the error's details."""
        held = self._held.get(path)
        if held is None or held.synced_at_s <= synced_at_s:
            valid_s = error.details.get("valid_s")
            ttl = min(self._negative_s, valid_s) if isinstance(valid_s, int | float) else self._negative_s
            self._store(path, Held(None, synced_at_s, now_s + ttl, now_s, error))

    def expire(self, path: str) -> None:
        """The next ``get`` misses; what was held still guards against older answers."""
        if (held := self._held.get(path)) is not None:
            self._held[path] = replace(held, until_s=0.0)

    def _store(self, path: str, held: Held) -> None:
        self._held[path] = held
        self._held.move_to_end(path)
        while len(self._held) > self._entries_max:
            self._held.popitem(last=False)

    def validate(self) -> None:
        """Checks invariant 1; the others are checked by tests of ``put``."""
        assert len(self._held) <= self._entries_max
