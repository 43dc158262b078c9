"""A fake under store in memory: files by key, every read recorded, failures and pauses on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from forebay.errors import ForebayError, NotFound, RangeNotSatisfiable, StaleVersion
from forebay.ufs import PAGE_NAMES_MAX, UfsDir, UfsEntry, UfsFile, UfsPage, UfsUri


@dataclass(frozen=True)
class ReadCall:
    """One range that was asked for."""

    key: str
    start: int
    length: int


class MemoryUfs:
    """``Ufs`` over a dictionary. ``fault``, if set, is called with each read and the bytes it has given; what it
    returns is raised. ``gate``, if set, gives what is awaited before each piece."""

    def __init__(self, *, piece_bytes: int = 64 << 10, uri: str = "file:///memory") -> None:
        self._uri = UfsUri.parse(uri)
        self.files: dict[str, tuple[bytes, str]] = {}
        self.calls: list[ReadCall] = []
        self.fault: Callable[[ReadCall, int], ForebayError | None] = lambda call, given: None
        self.gate: Callable[[ReadCall], asyncio.Future[None] | None] = lambda call: None
        self.open_reads = 0
        self._piece_bytes = piece_bytes
        self._versions = 0

    @property
    def uri(self) -> UfsUri:
        """See ``Ufs``."""
        return self._uri

    def put(self, key: str, content: bytes) -> UfsFile:
        """A new version of ``key``."""
        self._versions += 1
        self.files[key] = (content, f"v{self._versions}")
        return self._describe(key)

    async def list_page(self, directory: str, *, token: str | None = None, limit: int = PAGE_NAMES_MAX) -> UfsPage:
        """See ``Ufs``."""
        head = f"{directory}/" if directory else ""
        names = {key[len(head) :].partition("/")[::2] for key in self.files if key.startswith(head)}
        if not names and directory:
            raise NotFound("no such directory", key=directory)
        ordered = sorted((f"{name}/" if rest else name) for name, rest in names)
        ordered = [name for name in dict.fromkeys(ordered) if token is None or name > token]
        chosen = ordered[:limit]
        entries: list[UfsEntry] = [
            UfsDir(head + name[:-1]) if name.endswith("/") else self._describe(head + name) for name in chosen
        ]
        return UfsPage(tuple(entries), chosen[-1] if len(ordered) > limit else None)

    async def stat(self, key: str) -> UfsEntry:
        """See ``Ufs``."""
        if key in self.files:
            return self._describe(key)
        if not key or any(name.startswith(f"{key}/") for name in self.files):
            return UfsDir(key)
        raise NotFound("no such file or directory", key=key)

    async def read(
        self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None
    ) -> AsyncIterator[bytes]:
        """See ``Ufs``."""
        call = ReadCall(key, start, length)
        self.calls.append(call)
        self.open_reads += 1
        try:
            given = 0
            while given < length or length == 0:
                waiting = self.gate(call)
                await (asyncio.shield(waiting) if waiting is not None else asyncio.sleep(0))
                content = self._checked(call, fingerprint, size)
                error = self.fault(call, given)
                if error is not None:
                    raise error
                piece = content[start + given : min(start + given + self._piece_bytes, start + length)]
                given += len(piece)
                if not piece:
                    return
                yield piece
        finally:
            self.open_reads -= 1

    async def lend(
        self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None
    ) -> AsyncIterator[bytes | memoryview]:
        """See ``Ufs``. What was lent is overwritten as soon as the next piece is asked for."""
        async for piece in self.read(key, start, length, fingerprint=fingerprint, size=size):
            lent = bytearray(piece)
            yield memoryview(lent)
            lent[:] = b"\xee" * len(lent)

    async def close(self) -> None:
        """See ``Ufs``."""

    def _checked(self, call: ReadCall, fingerprint: str, size: int | None) -> bytes:
        if call.key not in self.files:
            raise NotFound("no such file", key=call.key)
        content, version = self.files[call.key]
        if version != fingerprint or (size is not None and size != len(content)):
            raise StaleVersion("the file has changed", key=call.key)
        if call.start + call.length > len(content):
            raise RangeNotSatisfiable("the range ends behind the file", key=call.key)
        return content

    def _describe(self, key: str) -> UfsFile:
        content, version = self.files[key]
        return UfsFile(key, len(content), 0, version)
