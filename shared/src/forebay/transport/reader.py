"""Bytes to frames, without I/O and without copying bodies.

The reader lends out the memory that the next bytes shall be read into: its own small control buffer, or, inside a DATA
frame whose receiver named a target, the rest of that frame's slice of the receiver's memory. Frames other than DATA are
short (the limits say how short) and handed over whole; DATA is handed over in pieces as it comes, so nothing of the
size of a frame is ever assembled.
"""

from __future__ import annotations

from typing import Protocol

from forebay.transport.frames import (
    CONTINUATION,
    DATA,
    FRAME_HEADER_BYTES,
    HEADERS,
    PADDED,
    ErrorCode,
    ProtocolError,
    unpack_header,
)

GOAWAY_BYTES_MAX = 1 << 13
_SHORT = {2: 64, 3: 64, 6: 64, 8: 64}
"""Kinds of fixed length (PRIORITY, RST_STREAM, PING, WINDOW_UPDATE); a longer one is refused before it is read."""


class FrameSink(Protocol):
    """Who takes the frames. Every method may raise `ProtocolError`, which ends the connection."""

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        """A whole frame that is not DATA; ``payload`` is valid during the call."""

    def on_data_begin(self, flags: int, stream_id: int, frame_length: int, body_length: int) -> memoryview | None:
        """A DATA frame of ``frame_length`` flow-controlled bytes, ``body_length`` of them body. Returns where the body
        shall land (exactly that long), or ``None`` for ``on_data_piece``."""

    def on_data_piece(self, piece: memoryview) -> None:
        """Body bytes of the frame begun last; valid during the call."""

    def on_data_end(self) -> None:
        """The frame begun last is complete; its target is filled and no longer touched."""


class FrameReader:
    """Cuts the byte stream into frames; at most one DATA frame is under way.

    Invariants: (1) ``_left`` is what is missing of the body of the frame under way, ``_pad`` what is missing after it;
    (2) a target is exactly ``_left`` bytes long; (3) the control buffer never holds a complete frame between calls.
    """

    def __init__(self, sink: FrameSink, *, frame_bytes_max: int, control_bytes_max: int) -> None:
        self._sink = sink
        self._frame_bytes_max = frame_bytes_max
        self._control_bytes_max = max(control_bytes_max, GOAWAY_BYTES_MAX)
        self._control = memoryview(bytearray(FRAME_HEADER_BYTES + self._control_bytes_max))
        self._fill = 0
        self._in_data = False
        self._target: memoryview | None = None
        self._left = 0
        self._pad = 0
        self._skip = 0

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._target is not None:
            return self._target
        return self._control[self._fill :]

    def advance(self, count: int) -> None:
        """``count`` bytes were read into `buffer`.

        Raises:
            ProtocolError: the connection is over; the reader must not be used again.
        """
        target = self._target
        if target is None:
            self._fill += count
            self._parse()
            return
        self._left -= count
        if self._left:
            self._target = target[count:]
        else:
            self._target = None
            self._finish_data()

    def feed(self, data: bytes | memoryview) -> None:
        """The same for bytes that somebody else read (the first ones of a sniffed connection, TLS records, tests)."""
        rest = memoryview(data)
        while rest:
            place = self.buffer()
            count = min(len(place), len(rest))
            place[:count] = rest[:count]
            rest = rest[count:]
            self.advance(count)

    def drop_target(self) -> None:
        """The receiver's memory is taken back: what is missing of the frame under way goes to ``on_data_piece``."""
        self._target = None

    def _parse(self) -> None:
        pos, end = 0, self._fill
        while pos < end:
            taken = self._continue(pos, end) if (self._in_data or self._skip) else self._begin(pos, end)
            if not taken:
                break
            pos += taken
            if self._target is not None:
                break
        if pos:
            rest = end - pos
            if rest:
                self._control[:rest] = bytes(self._control[pos:end])
            self._fill = rest

    def _begin(self, pos: int, end: int) -> int:
        """Takes a frame (or the header of a DATA frame) at ``pos``; returns the bytes taken, 0 for not yet."""
        have = end - pos - FRAME_HEADER_BYTES
        if have < 0:
            return 0
        high, low, kind, flags, stream_id = unpack_header(self._control, pos)
        length = int(high << 8 | low)
        if length > self._frame_bytes_max:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        if kind == DATA:
            return self._begin_data(pos + FRAME_HEADER_BYTES, have, length, flags, stream_id & 0x7FFFFFFF)
        if kind > CONTINUATION:
            self._sink.on_frame(kind, flags, stream_id & 0x7FFFFFFF, self._control[:0])
            self._skip = length
            return FRAME_HEADER_BYTES
        if length > _SHORT.get(kind, self._control_bytes_max):
            calm = kind in (HEADERS, CONTINUATION)
            code = ErrorCode.ENHANCE_YOUR_CALM if calm else ErrorCode.FRAME_SIZE_ERROR
            raise ProtocolError(code, f"a frame of kind {kind} of {length} bytes")
        if have < length:
            return 0
        start = pos + FRAME_HEADER_BYTES
        self._sink.on_frame(kind, flags, stream_id & 0x7FFFFFFF, self._control[start : start + length])
        return FRAME_HEADER_BYTES + length

    def _begin_data(self, start: int, have: int, length: int, flags: int, stream_id: int) -> int:
        taken, body, pad = FRAME_HEADER_BYTES, length, 0
        if flags & PADDED:
            if not length:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "padded DATA without a pad length")
            if not have:
                return 0
            pad = int(self._control[start])
            body = length - 1 - pad
            taken += 1
            if body < 0:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
        self._in_data, self._left, self._pad = True, body, pad
        target = self._sink.on_data_begin(flags, stream_id, length, body)
        if not body:
            self._finish_data()
            return taken
        first = min(body, have + FRAME_HEADER_BYTES - taken)
        if target is None:
            return taken
        if first:
            target[:first] = self._control[start + taken - FRAME_HEADER_BYTES :][:first]
            self._left -= first
        if self._left:
            self._target = target[first:] if first else target
        else:
            self._finish_data()
        return taken + first

    def _continue(self, pos: int, end: int) -> int:
        """Takes body or padding of the frame under way, or bytes of a frame that is skipped."""
        if self._in_data:
            count = min(self._left, end - pos)
            self._sink.on_data_piece(self._control[pos : pos + count])
            self._left -= count
            if not self._left:
                self._finish_data()
            return count
        count = min(self._skip, end - pos)
        self._skip -= count
        return count

    def _finish_data(self) -> None:
        self._in_data = False
        self._skip, self._pad = self._pad, 0
        self._sink.on_data_end()
