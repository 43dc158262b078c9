"""HTTP/2 without I/O (RFC 9113): frames in, callbacks out; calls in, frames out.

``receive_buffer`` and ``received`` take the peer's bytes, ``outbox`` collects ours; the socket's owner moves both. This
module hears the peer; ``outgoing.py`` sends; what differs by role (who opens streams) is in ``roles.py``. Stream errors
are answered here with RST_STREAM and told by ``on_fault``; connection errors leave as `ProtocolError` with the GOAWAY
already in the outbox. No clock: the owner calls `refill` once a second.

One engine of our own, because no Python sans-IO library lets a DATA payload pass without copies, and the data path is
what this product is for (measured, 4 MiB ranges, one stream, MB/s: this design 2,684, ngh2 1,676, jh2 540-670, h2
290-350).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from forebay.transport import frames
from forebay.transport.budget import Budgets
from forebay.transport.fields import FieldEncoder, HeadDecoder
from forebay.transport.flow import ReceiveWindow
from forebay.transport.frames import END_HEADERS, END_STREAM, ErrorCode, ProtocolError, StreamError
from forebay.transport.heads import check_trailers
from forebay.transport.limits import SMALL_UPDATE_BYTES, Limits
from forebay.transport.outgoing import Outgoing
from forebay.transport.reader import FrameReader
from forebay.transport.streams import Input, Phase, Stream, step

TINY_BODY_BYTES = 128
"""DATA frames shorter than this that do not end a stream count as idle: each costs more memory than it carries."""


class Head(Protocol):
    """What the engine must know of a parsed head."""

    @property
    def content_length(self) -> int | None: ...


H = TypeVar("H", bound=Head)
H_contra = TypeVar("H_contra", bound=Head, contravariant=True)


class Events(Protocol[H_contra]):
    """Who hears what the peer did. Callbacks must not block; they may call the engine."""

    def on_head(self, stream: Stream, head: H_contra, is_end: bool) -> None:
        """A request (server: the stream is new), or a reply, final or interim (client)."""

    def body_target(self, stream: Stream, count: int) -> memoryview | None:
        """Where the next ``count`` body bytes shall land; ``None``: hand them to ``on_body``."""

    def on_body(self, stream: Stream, piece: memoryview | None, count: int) -> None:
        """Body bytes: ``piece``, valid during the call, or ``None`` when they landed in the target. The owner returns
        the credit of pieces by `Engine.consume`; that of targets goes back by itself."""

    def on_end(self, stream: Stream) -> None:
        """The peer's half is complete."""

    def on_reset(self, stream: Stream, code: int, is_refused: bool) -> None:
        """The peer gave the stream up; refused means that it never began to work on it (section 8.7)."""

    def on_fault(self, stream: Stream, error: StreamError) -> None:
        """The peer broke a rule of this stream; it has been reset."""

    def on_window(self, stream: Stream | None) -> None:
        """More may be sent: on one stream, or (``None``) on any."""

    def on_goaway(self, code: int, debug: bytes) -> None:
        """The peer takes no new streams. Those it will not serve were told by ``on_reset``."""

    def on_pong(self, payload: bytes) -> None:
        """The answer to `Engine.ping`."""

    def on_settings(self) -> None:
        """The peer's settings changed (its ``streams_max``, perhaps)."""


class Engine(Outgoing, Generic[H]):
    """One end of one connection.

    Invariants, beside those of `Outgoing`: (1) what the peer may send on the connection plus what streams hold plus
    what was consumed and not yet returned is the connection window; (2) a header block under way admits no other frame.
    """

    def __init__(
        self,
        events: Events[H],
        decoder: HeadDecoder[H],
        encoder: FieldEncoder,
        limits: Limits,
        *,
        stream_window: int,
        connection_window: int,
    ) -> None:
        super().__init__(encoder, limits)
        self.events = events
        self.budgets = Budgets(limits)
        self.peer_streams_max = frames.STREAM_ID_MAX
        self.goaway_received = False
        self.receive_window = ReceiveWindow(connection_window)
        self._stream_window = stream_window
        self._decoder = decoder
        self._reader = FrameReader(
            self, frame_bytes_max=limits.frame_bytes_max, control_bytes_max=limits.header_block_bytes_max
        )
        self._has_settings = False
        self._settings_unacknowledged = 0
        self._block: list[bytes] | None = None
        self._block_stream_id = 0
        self._block_is_end = False
        self._data_stream: Stream | None = None
        self._data_is_end = False
        self._data_landing = 0

    # -- what the roles decide

    @abstractmethod
    def _on_unknown_head(self, stream_id: int, is_end: bool, block: bytes) -> None:
        """HEADERS for a stream that is not in the table."""

    @abstractmethod
    def _is_idle(self, stream_id: int) -> bool:
        """Whether nobody has opened that stream yet."""

    @abstractmethod
    def _on_goaway(self, last_stream_id: int) -> None:
        """Which of our streams the peer will not serve."""

    @abstractmethod
    def _take_head(self, stream: Stream, is_end: bool, block: bytes) -> None:
        """HEADERS for a stream in the table."""

    # -- receiving

    def receive_buffer(self) -> memoryview:
        """Where the socket's next bytes belong; valid until the next call into the engine."""
        return self._reader.buffer()

    def received(self, count: int) -> None:
        """``count`` bytes are in the buffer.

        Raises:
            ProtocolError: the connection is over; GOAWAY is in the outbox, and nothing may follow it.
        """
        try:
            self._reader.advance(count)
        except ProtocolError as error:
            self._give_up(error)
            raise

    def feed(self, data: bytes | memoryview) -> None:
        """The same for bytes that are in memory already."""
        try:
            self._reader.feed(data)
        except ProtocolError as error:
            self._give_up(error)
            raise

    def _give_up(self, error: ProtocolError) -> None:
        self.goaway(error.error_code, error.message.encode()[:128])

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        """From the reader: any frame but DATA."""
        if self._block is not None and (kind != frames.CONTINUATION or stream_id != self._block_stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted")
        if not self._has_settings and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the connection does not begin with SETTINGS")
        try:
            if kind > frames.CONTINUATION:
                self.budgets.idle_frames.spend()
            else:
                _HANDLERS[kind](self, flags, stream_id, payload)
        except StreamError as error:
            self.fault(stream_id, error)

    def fault(self, stream_id: int, error: StreamError) -> None:
        """Answers a stream error; an owner calls it too, for a body that breaks its own rules."""
        self.budgets.faults.spend()
        stream = self.streams.get(stream_id)
        if stream is None:
            self._send_reset(stream_id, error.error_code)
        else:
            self.reset(stream, error.error_code)
            self.events.on_fault(stream, error)

    # HEADERS and CONTINUATION

    def _on_headers(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if not stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        start, end = 0, len(payload)
        if flags & frames.PADDED:
            if not end:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "padded HEADERS without a pad length")
            start, end = 1, end - payload[0]
        if flags & frames.PRIORITY_FLAG:
            start += 5
        if start > end:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than payload")
        block = bytes(payload[start:end])
        if flags & END_HEADERS:
            self._on_block(stream_id, bool(flags & END_STREAM), block)
        else:
            self._block, self._block_stream_id, self._block_is_end = [block], stream_id, bool(flags & END_STREAM)

    def _on_continuation(self, flags: int, stream_id: int, payload: memoryview) -> None:
        parts = self._block
        if parts is None:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        parts.append(bytes(payload))
        too_long = sum(map(len, parts)) > self.limits.header_block_bytes_max
        if too_long or len(parts) > self.limits.continuations_max + 1:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the header block is too long")
        if flags & END_HEADERS:
            self._block = None
            self._on_block(stream_id, self._block_is_end, b"".join(parts))

    def _on_block(self, stream_id: int, is_end: bool, block: bytes) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._on_unknown_head(stream_id, is_end, block)
        elif stream.received is Phase.BODY:
            self._on_trailers(stream, is_end, block)
        elif stream.received is Phase.END:
            self._decoder.fields(block)
            raise StreamError(ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM")
        else:
            self._take_head(stream, is_end, block)

    def _on_trailers(self, stream: Stream, is_end: bool, block: bytes) -> None:
        check_trailers(self._decoder.fields(block))
        stream.received = step(stream.received, Input.HEAD_END if is_end else Input.HEAD)
        self._finish_receiving(stream)

    def _on_late_head(self, stream_id: int, block: bytes) -> None:
        """HEADERS for a stream that is gone: its fields still count for the compression state."""
        self._decoder.fields(block)
        self._check_late(stream_id)

    def _check_late(self, stream_id: int) -> None:
        if stream_id not in self._reset_ids:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, "a frame for a closed stream")
        self.budgets.idle_frames.spend()

    def _finish_receiving(self, stream: Stream) -> None:
        stream.finish_receiving()
        self._close_if_done(stream)
        self.events.on_end(stream)

    # DATA

    def on_data_begin(self, flags: int, stream_id: int, frame_length: int, body_length: int) -> memoryview | None:
        """From the reader: the header of a DATA frame."""
        if self._block is not None or not self._has_settings or not stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "DATA where none may be")
        self.receive_window.arrive(frame_length)
        is_end = bool(flags & END_STREAM)
        if body_length < TINY_BODY_BYTES and not is_end:
            self.budgets.idle_frames.spend()
        stream = self.streams.get(stream_id)
        self._data_stream, self._data_is_end, self._data_landing = stream, is_end, 0
        if stream is None:
            self._on_late_data(stream_id, frame_length)
            return None
        try:
            self._admit_data(stream, frame_length, body_length, is_end)
        except StreamError as error:
            self._data_stream = None
            self._return_connection_credit(frame_length)
            self.fault(stream_id, error)
            return None
        if frame_length > body_length:
            self.consume(stream, frame_length - body_length)
        target = self.events.body_target(stream, body_length) if body_length else None
        if target is not None:
            self._data_landing = body_length
        return target if not stream.is_closed else None

    def _admit_data(self, stream: Stream, frame_length: int, body_length: int, is_end: bool) -> None:
        after = step(stream.received, Input.DATA_END if is_end else Input.DATA)
        if frame_length > stream.receive_window.open:
            raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window allows")
        stream.arrive(body_length)
        stream.receive_window.arrive(frame_length)
        stream.received = after

    def _on_late_data(self, stream_id: int, frame_length: int) -> None:
        if self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "DATA on an idle stream")
        if stream_id not in self._reset_ids:
            raise ProtocolError(ErrorCode.STREAM_CLOSED, "DATA on a closed stream")
        self._return_connection_credit(frame_length)

    def on_data_piece(self, piece: memoryview) -> None:
        """From the reader: body bytes that have no target."""
        stream = self._data_stream
        if stream is not None and not stream.is_closed:
            self.events.on_body(stream, piece, len(piece))

    def on_data_end(self) -> None:
        """From the reader: the DATA frame is complete."""
        stream, self._data_stream = self._data_stream, None
        if stream is None or stream.is_closed:
            return
        if landed := self._data_landing:
            self.events.on_body(stream, None, landed)
            self.consume(stream, landed)
        if self._data_is_end and not stream.is_closed:
            try:
                self._finish_receiving(stream)
            except StreamError as error:
                self.fault(stream.id, error)

    def consume(self, stream: Stream, count: int) -> None:
        """``count`` body bytes of ``stream`` are used up: the peer may send as many more. No-op once it is closed, when
        all its credit has gone back to the connection."""
        if stream.is_closed:
            return
        increment = stream.receive_window.consume(count)
        if increment and stream.received is not Phase.END:
            self.outbox.append(frames.window_update(stream.id, increment))
        self._return_connection_credit(count)

    def _return_connection_credit(self, count: int) -> None:
        if increment := self.receive_window.consume(count):
            self.outbox.append(frames.window_update(0, increment))

    # the short frames

    def _on_priority(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if not stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self.budgets.idle_frames.spend()
        if len(payload) != 5:
            raise StreamError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another length than 5")

    def _on_rst_stream(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of another length than 4")
        if not stream_id or self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        stream = self.streams.get(stream_id)
        if stream is None:
            self.budgets.idle_frames.spend()
            return
        self.budgets.resets.spend()
        code = int(frames.unpack_u32(payload)[0])
        self._close(stream)
        self.events.on_reset(stream, code, code == ErrorCode.REFUSED_STREAM)

    def _on_settings(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            self._on_settings_ack(payload)
            return
        if len(payload) % 6:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a length that is no multiple of 6")
        if len(payload) // 6 > self.limits.settings_entries_max:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many SETTINGS in one frame")
        self.budgets.settings.spend()
        self._has_settings = True
        for offset in range(0, len(payload), 6):
            key, value = frames.unpack_setting(payload, offset)
            self._apply_setting(key, value)
        self.outbox.append(frames.SETTINGS_ACK)
        self.events.on_settings()
        self.events.on_window(None)

    def _on_settings_ack(self, payload: memoryview) -> None:
        if len(payload):
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
        if not self._settings_unacknowledged:
            self.budgets.idle_frames.spend()
            return
        self._settings_unacknowledged -= 1
        self._decoder.size_agreed()

    def _apply_setting(self, key: int, value: int) -> None:
        if key == frames.MAX_CONCURRENT_STREAMS:
            self.peer_streams_max = value
        elif key == frames.INITIAL_WINDOW_SIZE:
            self._apply_initial_window(value)
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.FRAME_BYTES_MIN <= value <= frames.FRAME_BYTES_MAX:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of its range")
            self._peer_frame_bytes_max = value
            self._send_frame_bytes_max = min(value, self.limits.send_frame_bytes_max)
        elif key == frames.ENABLE_PUSH:
            self._check_enable_push(value)

    def _check_enable_push(self, value: int) -> None:
        if value > 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")

    def _apply_initial_window(self, value: int) -> None:
        if value > frames.WINDOW_MAX:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE beyond 2^31-1")
        change, self._peer_stream_window = value - self._peer_stream_window, value
        for stream in self.streams.values():
            stream.send_window.grow(change)

    def _on_push_promise(self, flags: int, stream_id: int, payload: memoryview) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "push is off")

    def _on_ping(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PING of another length than 8")
        if flags & frames.ACK:
            self.events.on_pong(bytes(payload))
        else:
            self.budgets.pings.spend()
            self.outbox.append(frames.frame(frames.PING, frames.ACK, 0, bytes(payload)))

    def _on_goaway_frame(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY shorter than 8")
        self.budgets.settings.spend()
        last_stream_id, code = frames.unpack_goaway(payload)
        self.goaway_received = True
        self._on_goaway(last_stream_id & 0x7FFFFFFF)
        self.events.on_goaway(code, bytes(payload[8:136]))

    def _on_window_update(self, flags: int, stream_id: int, payload: memoryview) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another length than 4")
        increment = frames.unpack_u32(payload)[0] & 0x7FFFFFFF
        if increment < SMALL_UPDATE_BYTES:
            self.budgets.small_updates.spend()
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._grow_stream(stream, increment)
        elif not stream_id:
            if not increment:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            self.send_window.grow(increment)
            self.events.on_window(None)
        elif self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")

    def _grow_stream(self, stream: Stream, increment: int) -> None:
        if not increment:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
        if stream.send_window.size + increment > frames.WINDOW_MAX:
            raise StreamError(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window grows beyond 2^31-1")
        stream.send_window.grow(increment)
        self.events.on_window(stream)

    # -- the beginning, closing, and time

    def send_settings(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Our first frames: SETTINGS, and the connection's window beyond the default."""
        self.outbox.append(frames.settings(pairs))
        self._settings_unacknowledged += 1
        if (more := self.receive_window.size - frames.WINDOW_DEFAULT) > 0:
            self.outbox.append(frames.window_update(0, more))

    def _close(self, stream: Stream) -> None:
        super()._close(stream)
        if stream is self._data_stream:
            self._reader.drop_target()
        if held := stream.receive_window.held:
            self._return_connection_credit(held)

    def refill(self) -> None:
        """A second has passed: the peer's budgets are full again."""
        self.budgets.refill()

    def validate(self) -> None:
        """The numbered invariants, for tests. A stream whose last DATA frame is under way is not over yet."""
        self.receive_window.validate()
        for stream in self.streams.values():
            stream.validate()
            is_over = stream.received is Phase.END and stream.sent is Phase.END and stream is not self._data_stream
            if stream.is_closed or is_over:
                raise AssertionError(f"stream {stream.id} is closed and still in the table")


_HANDLERS = (
    Engine._on_push_promise,  # DATA comes by on_data_begin; this place is never looked up
    Engine._on_headers,
    Engine._on_priority,
    Engine._on_rst_stream,
    Engine._on_settings,
    Engine._on_push_promise,
    Engine._on_ping,
    Engine._on_goaway_frame,
    Engine._on_window_update,
    Engine._on_continuation,
)
