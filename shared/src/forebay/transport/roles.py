"""The two ends of a connection: the server, on which streams appear, and the client, which opens them."""

from __future__ import annotations

from collections.abc import Iterable

from forebay.transport import frames
from forebay.transport.engine import Engine, H
from forebay.transport.fields import Field
from forebay.transport.frames import ErrorCode, ProtocolError, StreamError
from forebay.transport.heads import ReplyHead
from forebay.transport.streams import Input, Stream, step


class ServerEngine(Engine[H]):
    """Takes requests. The client's preface has been read and checked by whoever sniffed the connection."""

    _last_stream_id = 0

    @property
    def last_peer_stream_id(self) -> int:
        return self._last_stream_id

    def start(self) -> None:
        """Puts our SETTINGS into the outbox."""
        limits = self.limits
        self.send_settings(
            (
                (frames.HEADER_TABLE_SIZE, 0),
                (frames.MAX_CONCURRENT_STREAMS, limits.streams_max),
                (frames.INITIAL_WINDOW_SIZE, self._stream_window),
                (frames.MAX_FRAME_SIZE, limits.frame_bytes_max),
                (frames.MAX_HEADER_LIST_SIZE, limits.header_list_bytes_max),
            )
        )

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id > self._last_stream_id or stream_id % 2 == 0

    def _on_unknown_head(self, stream_id: int, is_end: bool, block: bytes) -> None:
        if stream_id % 2 == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a client's stream has an even id")
        if stream_id <= self._last_stream_id:
            self._on_late_head(stream_id, block)
            return
        self._last_stream_id = stream_id
        head = self._decoder.head(block)
        if len(self.streams) >= self.limits.streams_max:
            raise StreamError(ErrorCode.REFUSED_STREAM, f"more than {self.limits.streams_max} streams")
        if self.goaway_sent is not None and stream_id > self.goaway_sent:
            raise StreamError(ErrorCode.REFUSED_STREAM, "a stream after GOAWAY")
        stream = Stream(stream_id, self._peer_stream_window, self._stream_window)
        self.streams[stream_id] = stream
        stream.received = step(stream.received, Input.HEAD_END if is_end else Input.HEAD)
        stream.expected = head.content_length
        if is_end:
            stream.finish_receiving()
        self.events.on_head(stream, head, is_end)

    def _take_head(self, stream: Stream, is_end: bool, block: bytes) -> None:
        raise AssertionError("a server's stream begins with its head")

    def _on_goaway(self, last_stream_id: int) -> None:
        """We open no streams, so the client refuses none."""


class ClientEngine(Engine[ReplyHead]):
    """Opens streams. ``next_stream_id`` beyond `STREAM_ID_MAX` means that the connection is used up."""

    next_stream_id = 1

    @property
    def last_peer_stream_id(self) -> int:
        return 0

    def start(self) -> None:
        """Puts the preface and our SETTINGS into the outbox."""
        limits = self.limits
        self.outbox.append(frames.PREFACE)
        self.send_settings(
            (
                (frames.HEADER_TABLE_SIZE, 0),
                (frames.ENABLE_PUSH, 0),
                (frames.INITIAL_WINDOW_SIZE, self._stream_window),
                (frames.MAX_FRAME_SIZE, limits.frame_bytes_max),
                (frames.MAX_HEADER_LIST_SIZE, limits.header_list_bytes_max),
            )
        )

    @property
    def is_open(self) -> bool:
        """Whether a new stream may be opened, as far as the peer has told (concurrency aside)."""
        return not self.goaway_received and self.goaway_sent is None and self.next_stream_id <= frames.STREAM_ID_MAX

    def send_request(self, fields: Iterable[Field], owner: object, *, is_end: bool, is_bodyless: bool) -> Stream:
        """Opens a stream with a request's head; ``is_bodyless`` for HEAD, whose reply has no body."""
        stream = Stream(self.next_stream_id, self._peer_stream_window, self._stream_window, owner)
        stream.is_bodyless = is_bodyless
        self.next_stream_id += 2
        self.streams[stream.id] = stream
        self.send_head(stream, fields, is_end=is_end)
        return stream

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id >= self.next_stream_id or stream_id % 2 == 0

    def _on_unknown_head(self, stream_id: int, is_end: bool, block: bytes) -> None:
        if self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "HEADERS on an idle stream")
        self._on_late_head(stream_id, block)

    def _take_head(self, stream: Stream, is_end: bool, block: bytes) -> None:
        head = self._decoder.head(block)
        if head.status < 200:
            self._take_interim(stream, head, is_end)
            return
        stream.received = step(stream.received, Input.HEAD_END if is_end else Input.HEAD)
        if not stream.is_bodyless and head.status not in (204, 304):
            stream.expected = head.content_length
        if is_end:
            stream.finish_receiving()
            self._close_if_done(stream)
        self.events.on_head(stream, head, is_end)

    def _take_interim(self, stream: Stream, head: ReplyHead, is_end: bool) -> None:
        if is_end:
            raise StreamError(ErrorCode.PROTOCOL_ERROR, "malformed message: an interim reply that ends the stream")
        self.budgets.idle_frames.spend()
        stream.received = step(stream.received, Input.INTERIM)
        self.events.on_head(stream, head, False)

    def _check_enable_push(self, value: int) -> None:
        if value:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a server must not enable push")

    def _on_goaway(self, last_stream_id: int) -> None:
        refused = [stream for stream in self.streams.values() if stream.id > last_stream_id]
        for stream in refused:
            self._close(stream)
            self.events.on_reset(stream, ErrorCode.REFUSED_STREAM, True)
