"""Flow control as arithmetic (RFC 9113, section 5.2 and 6.9): what we may send, what the peer may send.

Credit goes back on consumption, not on arrival, and in lumps of half a window, so that a bulk transfer costs one
WINDOW_UPDATE per half window instead of one per frame.
"""

from __future__ import annotations

from forebay.transport.frames import WINDOW_MAX, ErrorCode, ProtocolError


class SendWindow:
    """How many bytes of DATA the peer lets us send. May be negative after the peer shrank its initial window."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def grow(self, increment: int) -> None:
        """A WINDOW_UPDATE, or a change of the initial window.

        Raises:
            ProtocolError: FLOW_CONTROL_ERROR beyond 2^31-1; the caller narrows it to a stream where that is due.
        """
        if self.size + increment > WINDOW_MAX:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the window grows beyond 2^31-1")
        self.size += increment

    def spend(self, count: int) -> None:
        """``count`` bytes go out; the caller looked at ``size`` first."""
        self.size -= count


class ReceiveWindow:
    """How many bytes the peer may still send, and how many consumed ones we have not told it of.

    Invariant: ``open + held + unreturned == size`` where ``held`` is what arrived and was not consumed.
    """

    __slots__ = ("held", "open", "size", "unreturned")

    def __init__(self, size: int) -> None:
        self.size = size
        self.open = size
        self.held = 0
        self.unreturned = 0

    def arrive(self, count: int) -> None:
        """A DATA frame of ``count`` bytes, padding included.

        Raises:
            ProtocolError: FLOW_CONTROL_ERROR: the peer sent more than we allowed.
        """
        if count > self.open:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the window allows")
        self.open -= count
        self.held += count

    def consume(self, count: int) -> int:
        """``count`` held bytes are used up; returns the increment to send now, 0 for none yet."""
        self.held -= count
        self.unreturned += count
        if self.unreturned * 2 < self.size:
            return 0
        increment, self.unreturned = self.unreturned, 0
        self.open += increment
        return increment

    def validate(self) -> None:
        """The invariant, for tests."""
        if self.open + self.held + self.unreturned != self.size or min(self.open, self.held, self.unreturned) < 0:
            raise AssertionError(f"open {self.open} + held {self.held} + unreturned {self.unreturned} != {self.size}")
