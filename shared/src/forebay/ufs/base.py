"""What every under store can do, seen from a mount: list a directory page by page, stat, read a range of one version.

Keys are relative to the root that was opened. Writing will join the Protocol; nothing here stands in its way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard

from forebay.contracts.leaves import Leaf
from forebay.ufs.uri import UfsUri

PAGE_NAMES_MAX = 1000
"""Names in one page at most: S3's own bound for one listing request."""


@dataclass(frozen=True)
class UfsFile:
    """A file as the under store describes it. ``fingerprint`` names the content: ETag, or mtime, size and inode."""

    key: str
    size: int
    mtime_ns: int
    fingerprint: str
    mode: int = 0o444


@dataclass(frozen=True)
class UfsDir:
    """A directory. S3 has none: there it is a prefix that some key has, and its time is unknown (0)."""

    key: str
    mtime_ns: int = 0


UfsEntry = UfsFile | UfsDir


@dataclass(frozen=True)
class UfsPage:
    """One page of one directory; ``skipped`` counts names that no file can have (empty, "..", over 255 bytes, ...)
    and things that are neither file nor directory."""

    entries: tuple[UfsEntry, ...]
    next_token: str | None
    skipped: int = 0


@dataclass(frozen=True)
class UfsLimits:
    """Bounds of one opened under store."""

    streams_max: int = 64
    """Data reads at the same time; more wait."""
    connect_timeout_s: float = 5.0
    silence_timeout_s: float = 15.0
    """Longest wait for the next byte of a reply, its head included."""
    request_timeout_s: float = 60.0
    """One listing or stat, with its retries."""
    attempts_max: int = 3
    """Tries of one listing or stat. A data read is tried once: who reads knows what is worth another."""
    discard_max_bytes: int = 64 << 20
    """What may be thrown away in front of a range when a server ignores Range and sends the whole object."""


@dataclass(frozen=True)
class Credentials:
    """Keys given by hand (tests, tools). Services use the standard AWS chain instead. Never printed."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


LIMITS_DEFAULT = UfsLimits()


class Ufs(Protocol):
    """An under store opened at a root. Every call may raise ``UfsUnavailable`` (try again), ``UfsDenied`` or
    ``UfsError`` (it answered something it should not), and ``InvalidRequest`` for a key that would leave the root."""

    @property
    def uri(self) -> UfsUri:
        """The root that was opened."""

    async def list_page(self, directory: str, *, token: str | None = None, limit: int = PAGE_NAMES_MAX) -> UfsPage:
        """Part of one level of ``directory`` ("" is the root), after ``token``; at most ``limit`` names, maybe fewer.

        Each name comes once. Order within a page: bytes of the name, where a directory counts as ``name/`` (S3's own
        order, and git's); across pages it is the store's, and not every S3 server keeps it, so do not build on it.
        Where S3 has both an object ``a`` and keys below ``a/``, the directory wins; if both come, on different pages,
        that is the caller's to do.

        Raises:
            NotFound: there is no such directory.
        """

    async def stat(self, key: str) -> UfsEntry:
        """The file or directory ``key``; the directory if S3 has both.

        Raises:
            NotFound: there is neither.
        """

    def read(
        self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None
    ) -> AsyncIterator[bytes]:
        """Exactly ``length`` bytes from ``start`` of that version, in pieces as they come (close the iterator if you
        leave early). One attempt, no retry. ``length`` 0 asks nobody.

        ``size``, if given, is compared with the under store's as well: pass what an untrusted peer claimed.

        Raises:
            StaleVersion: the under store holds another version now (or another size).
            NotFound: it is gone.
            RangeNotSatisfiable: the version is right and shorter than the range.
            UfsUnavailable: no answer, throttled, or the body ended early.
        """

    def lend(
        self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None
    ) -> AsyncIterator[bytes | memoryview]:
        """As ``read``, but each piece is only lent: what is in it is undefined once the next is asked for, or the
        iterator is closed by one who had asked for another. Who leaves in the middle of a piece keeps that one. Saves a
        copy and new memory for each piece."""

    async def close(self) -> None:
        """Gives back connections; running reads fail."""


class TakesWhole(Protocol):
    """An under store for which a short range in one piece is much cheaper than pieces."""

    async def take(self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None) -> bytes:
        """As ``Ufs.read``, all of it at once."""


class ListsWhole(Protocol):
    """An under store that gives a directory of moderate size at once, as columns, cheaper than in pages."""

    async def list_whole(self, directory: str) -> Leaf | None:
        """The names of ``directory`` in byte order; ``None`` if it is too large for that: then there are pages.

        Raises:
            As ``Ufs.list_page``.
        """


def lists_whole(ufs: object) -> TypeGuard[ListsWhole]:
    """Whether ``ufs`` is one."""
    return hasattr(ufs, "list_whole")


def takes_whole(ufs: object) -> TypeGuard[TakesWhole]:
    """Whether ``ufs`` is one. (``isinstance`` with a Protocol costs 30 µs.)"""
    return hasattr(ufs, "take")
