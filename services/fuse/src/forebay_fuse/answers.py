"""Replies out of the gateway: every one is counted, every error goes through the one door."""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from typing import Protocol

from forebay.errors import ForebayError
from forebay.runtime import logs
from forebay.telemetry import Metrics
from forebay_fuse.errno_door import errno_of
from forebay_fuse.protocol import layout, replies
from forebay_fuse.splice import Piece

LOGGED_A_S = 10
"""Failed requests that are logged each second; all are counted."""

EXPECTED = (errno.ENOENT, errno.ESTALE, errno.ENODATA, errno.ENOTSUP, errno.ERANGE)
LOG = logs.get(__name__)

Buffer = bytes | bytearray | memoryview


class Sink(Protocol):
    """Where replies go: the device."""

    def reply(self, parts: Sequence[Buffer]) -> bool:
        """Sends one reply; whether the kernel took it."""

    def reply_files(self, header: bytes, pieces: Sequence[Piece]) -> bool:
        """Sends one reply out of files on tmpfs; False if that could not be tried."""

    def answered(self, unique: int) -> None:
        """Another process has sent the reply to a request."""

    def is_awaited(self, unique: int) -> bool:
        """Whether the kernel still waits for the reply to a request."""

    def notify(self, message: bytes) -> None:
        """Sends a notification, some time."""

    async def notice_room(self) -> None:
        """Until there is room for many notifications: none is dropped then."""


class Answers:
    """The session's replies. Without a sink (before the mount) they go nowhere."""

    def __init__(self, metrics: Metrics) -> None:
        self.sink: Sink | None = None
        self._errors = metrics.counter("forebay_fuse_errors_total", "errors given to programs", ("errno",))
        self._bugs = metrics.counter("forebay_fuse_unexpected_errors_total", "requests that failed by a bug of ours")
        self._second, self._logged = 0, 0

    def send(self, *parts: Buffer) -> bool:
        """One reply in several parts."""
        return self.sink is not None and self.sink.reply(parts)

    def send_files(self, header: bytes, pieces: Sequence[Piece]) -> bool:
        """One reply out of files; False if it must be made otherwise."""
        return self.sink is not None and self.sink.reply_files(header, pieces)

    def ok(self, unique: int, body: bytes = b"") -> bool:
        """A good reply."""
        return self.sink is not None and self.sink.reply((replies.ok(unique, body),))

    def whole(self, reply: bytes) -> bool:
        """A good reply that has its header."""
        return self.sink is not None and self.sink.reply((reply,))

    def answered(self, unique: int) -> None:
        """A reply that a data helper has sent."""
        if self.sink is not None:
            self.sink.answered(unique)

    def is_awaited(self, unique: int) -> bool:
        """Whether a request must still be answered, by us."""
        return self.sink is not None and self.sink.is_awaited(unique)

    def fail(self, unique: int, number: int) -> None:
        """An error."""
        self._errors.add(1, errno.errorcode.get(number, str(number)))
        self.send(replies.error(unique, number))

    def notify(self, message: bytes) -> None:
        """A notification."""
        if self.sink is not None:
            self.sink.notify(message)

    async def notice_room(self) -> None:
        """Until notifications may follow, some hundred of them."""
        if self.sink is not None:
            await self.sink.notice_room()

    def refuse(self, opcode: int, unique: int, error: Exception) -> None:
        """The reply to a request that ended with ``error``."""
        number = errno_of(error)
        if not isinstance(error, ForebayError):
            self._bugs.add(1)
        if number not in EXPECTED:
            self._log(opcode, number, error)
        if opcode not in layout.SILENT:
            self.fail(unique, number)

    def _log(self, opcode: int, number: int, error: Exception) -> None:
        second = int(time.monotonic())
        self._logged = self._logged + 1 if second == self._second else 1
        self._second = second
        if self._logged > LOGGED_A_S:
            return
        ours = isinstance(error, ForebayError)
        (LOG.warning if ours else LOG.error)(
            "request_failed", op=layout.name_of(opcode), errno=errno.errorcode.get(number), error=repr(error),
            exc_info=None if ours else error, more_are_not_logged=self._logged == LOGGED_A_S,
        )  # fmt: skip
