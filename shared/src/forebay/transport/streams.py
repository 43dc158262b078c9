"""One stream's life as a table: each direction goes from head to body to end, whatever the role.

RFC 9113 draws five states; they are pairs of two equal halves (idle: no stream yet; open: neither half ended;
half-closed: one ended; closed: both, or reset). A half is a phase, a frame is an input, and the table knows every pair.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from forebay.transport.flow import ReceiveWindow, SendWindow
from forebay.transport.frames import ErrorCode, StreamError


class Phase(IntEnum):
    """How far one direction of a message is."""

    HEAD = 0
    BODY = 1
    END = 2


class Input(IntEnum):
    """What comes or goes on a stream. ``INTERIM`` is a head with status 1xx; ``HEAD`` after the head is trailers."""

    INTERIM = 0
    HEAD = 1
    HEAD_END = 2
    DATA = 3
    DATA_END = 4


Step = Phase | tuple[ErrorCode, str]
_EARLY = (ErrorCode.PROTOCOL_ERROR, "DATA before the head")
_OPEN_TRAILERS = (ErrorCode.PROTOCOL_ERROR, "trailers without END_STREAM")
_CLOSED = (ErrorCode.STREAM_CLOSED, "a frame after END_STREAM")

TABLE: dict[tuple[Phase, Input], Step] = {
    (Phase.HEAD, Input.INTERIM): Phase.HEAD,
    (Phase.HEAD, Input.HEAD): Phase.BODY,
    (Phase.HEAD, Input.HEAD_END): Phase.END,
    (Phase.HEAD, Input.DATA): _EARLY,
    (Phase.HEAD, Input.DATA_END): _EARLY,
    (Phase.BODY, Input.INTERIM): (ErrorCode.PROTOCOL_ERROR, "an interim head after the final one"),
    (Phase.BODY, Input.HEAD): _OPEN_TRAILERS,
    (Phase.BODY, Input.HEAD_END): Phase.END,
    (Phase.BODY, Input.DATA): Phase.BODY,
    (Phase.BODY, Input.DATA_END): Phase.END,
    (Phase.END, Input.INTERIM): _CLOSED,
    (Phase.END, Input.HEAD): _CLOSED,
    (Phase.END, Input.HEAD_END): _CLOSED,
    (Phase.END, Input.DATA): _CLOSED,
    (Phase.END, Input.DATA_END): _CLOSED,
}
_ROWS: tuple[tuple[Step, ...], ...] = tuple(tuple(TABLE[phase, given] for given in Input) for phase in Phase)


def step(phase: Phase, given: Input) -> Phase:
    """The phase after ``given``.

    Raises:
        StreamError: the pair is against RFC 9113, section 8.1 or 5.1.
    """
    after = _ROWS[phase][given]
    if isinstance(after, tuple):
        raise StreamError(*after)
    return after


class Stream:
    """One request and its reply on a connection: id, two phases, two windows, and whose it is.

    Invariants: (1) ``expected`` is what is left of the declared content length, never negative, ``None`` without one;
    (2) a closed stream is in no engine's table. ``is_bodyless`` marks a HEAD request, whose reply declares a length and
    has no body.
    """

    __slots__ = (
        "expected",
        "id",
        "is_bodyless",
        "is_closed",
        "owner",
        "receive_window",
        "received",
        "send_window",
        "sent",
    )

    def __init__(self, stream_id: int, send_window: int, receive_window: int, owner: Any = None) -> None:
        self.id = stream_id
        self.owner = owner
        self.received = Phase.HEAD
        self.sent = Phase.HEAD
        self.send_window = SendWindow(send_window)
        self.receive_window = ReceiveWindow(receive_window)
        self.expected: int | None = None
        self.is_bodyless = False
        self.is_closed = False

    def arrive(self, count: int) -> None:
        """``count`` bytes of body are announced by a DATA frame.

        Raises:
            StreamError: more than the declared content length (section 8.1.1).
        """
        if self.expected is not None:
            if count > self.expected:
                raise StreamError(ErrorCode.PROTOCOL_ERROR, "more body than content-length says")
            self.expected -= count

    def finish_receiving(self) -> None:
        """The peer's last frame came.

        Raises:
            StreamError: less body than the declared content length.
        """
        if self.expected:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "less body than content-length says")

    def validate(self) -> None:
        """The numbered invariants, for tests."""
        self.receive_window.validate()
        if self.expected is not None and self.expected < 0:
            raise AssertionError(f"stream {self.id}: {self.expected} bytes expected")
