"""Cutting bytes into frames: bodies in pieces, the rest whole, and nothing larger than it may be."""

from __future__ import annotations

import pytest

from forebay.transport import frames
from forebay.transport.frames import ErrorCode, ProtocolError, frame
from forebay.transport.reader import FrameReader


class Sink:
    def __init__(self, target: memoryview | None = None) -> None:
        self.target = target
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.pieces: list[bytes] = []
        self.begun: list[tuple[int, int, int, int]] = []
        self.ended = 0

    def on_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        self.frames.append((kind, flags, stream_id, bytes(payload)))

    def on_data_begin(self, flags: int, stream_id: int, frame_length: int, body_length: int) -> memoryview | None:
        self.begun.append((flags, stream_id, frame_length, body_length))
        return self.target[:body_length] if self.target is not None and body_length else None

    def on_data_piece(self, piece: memoryview) -> None:
        self.pieces.append(bytes(piece))

    def on_data_end(self) -> None:
        self.ended += 1


def reader(sink: Sink) -> FrameReader:
    return FrameReader(sink, frame_bytes_max=1 << 20, control_bytes_max=1 << 14)


@pytest.mark.parametrize("size", [1, 2, 7, 9, 10, 1000])
def test_frames_come_out_whole_however_the_bytes_are_cut(size: int) -> None:
    # given
    wire = frame(frames.PING, 0, 0, b"12345678") + frame(frames.HEADERS, 5, 1, b"abc") + frame(0x77, 0, 3, b"zzz")
    sink = Sink()
    cut = reader(sink)
    # when
    for start in range(0, len(wire), size):
        cut.feed(wire[start : start + size])
    # then
    assert sink.frames == [
        (frames.PING, 0, 0, b"12345678"),
        (frames.HEADERS, 5, 1, b"abc"),
        (0x77, 0, 3, b""),  # an unknown frame's payload is skipped, not kept
    ]


@pytest.mark.parametrize("size", [1, 5, 9, 64, 10_000])
@pytest.mark.parametrize("pad", [None, 0, 200])
def test_a_body_lands_in_its_target(size: int, pad: int | None) -> None:
    # given
    body = bytes(range(256)) * 8
    payload = body if pad is None else bytes((pad,)) + body + bytes(pad)
    wire = frame(frames.DATA, 0 if pad is None else frames.PADDED, 1, payload) + frame(frames.PING, 0, 0, b"x" * 8)
    place = bytearray(len(body))
    sink = Sink(memoryview(place))
    cut = reader(sink)
    # when
    for start in range(0, len(wire), size):
        cut.feed(wire[start : start + size])
    # then
    assert place == body
    assert sink.begun == [(0 if pad is None else frames.PADDED, 1, len(payload), len(body))]
    assert (sink.ended, sink.pieces, len(sink.frames)) == (1, [], 1)


def test_a_body_without_a_target_comes_in_pieces() -> None:
    # given
    wire = frame(frames.DATA, 1, 1, b"a" * 100)
    sink = Sink()
    cut = reader(sink)
    # when
    for start in range(0, len(wire), 30):
        cut.feed(wire[start : start + 30])
    # then
    assert b"".join(sink.pieces) == b"a" * 100
    assert len(sink.pieces) > 1
    assert sink.ended == 1


def test_inside_a_target_the_reader_lends_the_targets_own_memory() -> None:
    # given
    place = bytearray(1000)
    cut = reader(Sink(memoryview(place)))
    cut.feed(frames.frame_header(1000, frames.DATA, 0, 1) + b"ab")
    # when
    lent = cut.buffer()
    lent[:3] = b"cde"
    cut.advance(3)
    # then
    assert len(lent) == 998
    assert place[:5] == b"abcde"
    assert len(cut.buffer()) == 995


def test_memory_that_is_taken_back_is_not_written_to_again() -> None:
    # given
    place = bytearray(100)
    sink = Sink(memoryview(place))
    cut = reader(sink)
    cut.feed(frames.frame_header(100, frames.DATA, 0, 1) + b"a" * 10)
    # when
    cut.drop_target()
    cut.feed(b"b" * 90 + frame(frames.PING, 0, 0, b"x" * 8))
    # then
    assert place == b"a" * 10 + bytes(90)
    assert b"".join(sink.pieces) == b"b" * 90
    assert len(sink.frames) == 1


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (frames.frame_header((1 << 20) + 1, frames.DATA, 0, 1), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame_header(1 << 15, frames.HEADERS, 0, 1), ErrorCode.ENHANCE_YOUR_CALM),
        (frames.frame_header(1 << 15, frames.CONTINUATION, 0, 1), ErrorCode.ENHANCE_YOUR_CALM),
        (frames.frame_header(1 << 15, frames.SETTINGS, 0, 0), ErrorCode.FRAME_SIZE_ERROR),
        (frames.frame_header(65, frames.PING, 0, 0), ErrorCode.FRAME_SIZE_ERROR),
        (frame(frames.DATA, frames.PADDED, 1, b""), ErrorCode.FRAME_SIZE_ERROR),
        (frame(frames.DATA, frames.PADDED, 1, b"\x05abcd"), ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_a_frame_of_an_impossible_size_is_refused_at_its_header(wire: bytes, code: ErrorCode) -> None:
    with pytest.raises(ProtocolError) as caught:
        reader(Sink()).feed(wire)
    assert caught.value.error_code is code
