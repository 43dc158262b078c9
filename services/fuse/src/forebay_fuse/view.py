"""How the mount looks, and what the kernel may keep of it. Pure."""

from __future__ import annotations

import math
import stat
from dataclasses import dataclass
from functools import lru_cache

from forebay.contracts import Entry
from forebay_fuse.modes import Mode
from forebay_fuse.protocol import layout
from forebay_fuse.protocol.replies import Attributes, Timeouts, timeouts

PAGE_BYTES = 4096
GRAIN_S = 1 / 16
"""A master's word is told to the kernel in steps of this, rounded down: all names that are looked up within one step
share what is made of it."""

VIRTUAL = ".forebay"
BASE = 1 << 62
"""Node id and inode number of the virtual directory; its files follow."""

_attributes = Attributes._make
_DIR, _FILE = stat.S_IFDIR, stat.S_IFREG
_PASSED = int(layout.Open.NOFLUSH | layout.Open.PASSTHROUGH)
_DIRECT = int(layout.Open.NOFLUSH | layout.Open.DIRECT_IO)
_CACHED = int(layout.Open.NOFLUSH)
_KEPT = int(layout.Open.NOFLUSH | layout.Open.KEEP_CACHE)


@dataclass(frozen=True)
class View:
    """The switches. Times are seconds; ``max_pages`` bounds one read of the kernel. ``stack_depth``: how deep file
    systems are stacked below this mount where files pass through. ``small_file_bytes``: files up to this are fetched
    whole when they are opened."""

    uid: int = 0
    gid: int = 0
    umask: int = 0
    entry_timeout_s: float = 3600.0
    attr_timeout_s: float = 3600.0
    negative_timeout_s: float = 1.0
    kernel_cache: bool = True
    direct_io: bool = False
    passthrough: bool = True
    stack_depth: int = 1
    small_file_bytes: int = 4 << 20
    small_file_s: float = 2.0
    splice: bool = True
    xattrs: bool = True
    update_access_time: bool = False
    virtual: str = "hidden"
    hints: bool = True
    max_pages: int = 256
    max_background: int = 64

    @property
    def read_max(self) -> int:
        """Longest READ in bytes."""
        return self.max_pages * PAGE_BYTES

    def attributes(self, entry: Entry) -> Attributes:
        """``stat`` of an entry: its own mode, writable by none, less ``umask``."""
        mode = (_DIR if entry.kind == "dir" else _FILE) | (entry.mode & 0o555 & ~self.umask)
        return _attributes((entry.inode, entry.size, entry.mtime_ns, mode, self.uid, self.gid))

    @property
    def has_virtual(self) -> bool:
        """Whether ``.forebay`` is there."""
        return self.virtual != "off"

    def dots(self, node_id: int) -> int:
        """How many names of our own a listing of the directory begins with: two dots, and ``.forebay`` if shown."""
        return 3 if node_id == layout.ROOT_ID and self.virtual == "shown" else 2

    @property
    def takes_hints(self) -> bool:
        """Whether ``.forebay/hints`` can be written; the mount is not made read-only for the kernel then."""
        return self.hints and self.has_virtual

    @property
    def wants_passthrough(self) -> bool:
        """Whether to agree to passthrough with the kernel: with ``direct_io`` every read is to come here."""
        return self.passthrough and not self.direct_io

    def open_flags(self, mode: Mode) -> int:
        """Flags of the reply to OPEN. A node id names one version, so its pages stay good for ever; a file that is
        passed through has no pages of ours (the kernel refuses KEEP_CACHE with it)."""
        if mode is Mode.PASSTHROUGH:
            return _PASSED
        if mode is Mode.DIRECT:
            return _DIRECT
        return _KEPT if self.kernel_cache else _CACHED

    def entry_s(self, valid_s: float | None) -> float:
        """How long a name may be kept: the switch, but never beyond the master's word (``None``: for ever)."""
        return _least(self.entry_timeout_s, valid_s)

    def attr_s(self, entry: Entry, valid_s: float | None) -> float:
        """How long attributes may be kept: a file's belong to its version and never change, a directory's may."""
        return self.attr_s_of(entry.kind, valid_s)

    def attr_s_of(self, kind: str, valid_s: float | None) -> float:
        """As `attr_s`, for what is ``dir`` or ``file``."""
        return _least(self.attr_timeout_s, valid_s) if kind == "dir" else self.attr_timeout_s

    def times(self, kind: str, valid_s: float | None) -> Timeouts:
        """How long a name of what is ``dir`` or ``file`` and its attributes may be kept."""
        told_s = math.inf if valid_s is None else valid_s // GRAIN_S * GRAIN_S
        return _times(self.entry_timeout_s, self.attr_timeout_s, kind, told_s)

    def negative_s(self, valid_s: object) -> float:
        """How long may be kept that a name is not there. A master that says nothing means: not at all."""
        return _least(self.negative_timeout_s, float(valid_s)) if isinstance(valid_s, (int, float)) else 0.0


@lru_cache(maxsize=256)
def _times(entry_timeout_s: float, attr_timeout_s: float, kind: str, valid_s: float) -> Timeouts:
    entry_s = _least(entry_timeout_s, valid_s)
    return timeouts(entry_s, _least(attr_timeout_s, valid_s) if kind == "dir" else attr_timeout_s)


def _least(switch_s: float, valid_s: float | None) -> float:
    return switch_s if valid_s is None else max(0.0, min(switch_s, valid_s))
