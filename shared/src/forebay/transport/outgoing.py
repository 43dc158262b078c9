"""The sending half of an engine: calls in, frames out, as far as windows and states allow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from forebay.errors import InternalError
from forebay.transport import frames
from forebay.transport.fields import TABLE_SIZE_ZERO, Field, FieldEncoder
from forebay.transport.flow import SendWindow
from forebay.transport.frames import END_HEADERS, END_STREAM, ErrorCode, StreamError
from forebay.transport.limits import Limits
from forebay.transport.streams import Input, Phase, Stream, step

SMALL_BODY_BYTES = 4096
"""Up to this length a body piece is joined to its frame header: one small copy is cheaper than one more buffer."""

RESET_IDS_MAX = 1024
"""Streams we reset whose late frames are still recognised and ignored."""


class Outgoing(ABC):
    """What one end has open, and what it wants to send.

    Invariants: (1) ``streams`` holds exactly the streams that are not closed; (2) a frame in ``outbox`` is whole: its
    header and payload are one item or two neighbours.
    """

    def __init__(self, encoder: FieldEncoder, limits: Limits) -> None:
        self.limits = limits
        self.outbox: list[bytes | memoryview] = []
        self.streams: dict[int, Stream] = {}
        self.send_window = SendWindow(frames.WINDOW_DEFAULT)
        self.goaway_sent: int | None = None
        self._encoder = encoder
        self._peer_frame_bytes_max = frames.FRAME_BYTES_MIN
        self._send_frame_bytes_max = frames.FRAME_BYTES_MIN
        self._peer_stream_window = frames.WINDOW_DEFAULT
        self._opened_table = False
        self._reset_ids: dict[int, None] = {}

    @property
    @abstractmethod
    def last_peer_stream_id(self) -> int:
        """What GOAWAY says was, or may have been, acted upon."""

    def send_head(self, stream: Stream, fields: Iterable[Field], *, is_end: bool, is_interim: bool = False) -> None:
        """HEADERS (and CONTINUATION) on ``stream``."""
        given = Input.INTERIM if is_interim else Input.HEAD_END if is_end else Input.HEAD
        self._advance_sent(stream, given)
        self._send_block(stream.id, self._encoder.encode(fields), END_STREAM if is_end else 0)
        if is_end:
            self._close_if_done(stream)

    def _send_block(self, stream_id: int, block: bytes, flags: int) -> None:
        if not self._opened_table:
            self._opened_table = True
            block = TABLE_SIZE_ZERO + block
        size = self._peer_frame_bytes_max
        if len(block) <= size:
            self.outbox.append(frames.frame(frames.HEADERS, flags | END_HEADERS, stream_id, block))
            return
        self.outbox.append(frames.frame(frames.HEADERS, flags, stream_id, block[:size]))
        for start in range(size, len(block), size):
            last = END_HEADERS if start + size >= len(block) else 0
            self.outbox.append(frames.frame(frames.CONTINUATION, last, stream_id, block[start : start + size]))

    def sendable(self, stream: Stream) -> int:
        """Bytes that one `send_data` may carry now; zero or less: wait for ``on_window``."""
        return min(self.send_window.size, stream.send_window.size, self._send_frame_bytes_max)

    def send_data(self, stream: Stream, piece: bytes | bytearray | memoryview, *, is_end: bool) -> None:
        """One DATA frame; the caller keeps ``len(piece) <= sendable(stream)`` (0 is always allowed)."""
        count = len(piece)
        self._advance_sent(stream, Input.DATA_END if is_end else Input.DATA)
        self.send_window.spend(count)
        stream.send_window.spend(count)
        head = frames.frame_header(count, frames.DATA, END_STREAM if is_end else 0, stream.id)
        if count > SMALL_BODY_BYTES:
            self.outbox.append(head)
            self.outbox.append(piece if isinstance(piece, (bytes, memoryview)) else memoryview(piece))
        else:
            self.outbox.append(b"".join((head, piece)))
        if is_end:
            self._close_if_done(stream)

    def _advance_sent(self, stream: Stream, given: Input) -> None:
        try:
            stream.sent = step(stream.sent, given)
        except StreamError as error:
            raise InternalError(f"we may not send that: {error.message}") from error
        if stream.is_closed:
            raise InternalError("the stream is closed")

    def reset(self, stream: Stream, code: int = ErrorCode.CANCEL) -> None:
        """Gives a stream up; late frames of the peer are ignored. No-op once it is closed."""
        if stream.is_closed:
            return
        self._close(stream)
        self._send_reset(stream.id, code)

    def _send_reset(self, stream_id: int, code: int) -> None:
        self._reset_ids[stream_id] = None
        if len(self._reset_ids) > RESET_IDS_MAX:
            del self._reset_ids[next(iter(self._reset_ids))]
        self.outbox.append(frames.rst_stream(stream_id, code))

    def _close_if_done(self, stream: Stream) -> None:
        if stream.received is Phase.END and stream.sent is Phase.END:
            self._close(stream)

    def _close(self, stream: Stream) -> None:
        stream.is_closed = True
        del self.streams[stream.id]

    def ping(self, payload: bytes) -> None:
        """A PING of 8 bytes; ``on_pong`` brings them back."""
        self.outbox.append(frames.frame(frames.PING, 0, 0, payload))

    def goaway(self, code: int = ErrorCode.NO_ERROR, debug: bytes = b"", *, is_warning: bool = False) -> None:
        """No new streams from the peer, please. A warning (section 6.8) names no last stream yet, so that what is on
        its way is still served; the real one follows after a round trip."""
        last = frames.STREAM_ID_MAX if is_warning else self.last_peer_stream_id
        self.goaway_sent = last
        self.outbox.append(frames.goaway(last, code, debug))
