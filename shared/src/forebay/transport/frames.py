"""HTTP/2 frames as bytes (RFC 9113, section 4 and 6): names, numbers, and how each frame we send is packed.

Nothing here keeps state; reading frames is ``reader.py``'s part.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum

from forebay.errors import PeerMisbehaved

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_BYTES = 9
FRAME_BYTES_MIN = 1 << 14
FRAME_BYTES_MAX = (1 << 24) - 1
WINDOW_MAX = (1 << 31) - 1
WINDOW_DEFAULT = 65_535
STREAM_ID_MAX = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 0x1, 0x2, 0x3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 0x4, 0x5, 0x6


class ErrorCode(IntEnum):
    """RFC 9113, section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def code_name(code: int) -> str:
    """``"CANCEL"`` for 8; the number itself for codes that no RFC names."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"0x{code:x}"


class ProtocolError(PeerMisbehaved):
    """The peer broke a rule that ends the whole connection (section 5.4.1)."""

    def __init__(self, error_code: ErrorCode, reason: str) -> None:
        super().__init__(f"{reason} ({error_code.name})", error_code=int(error_code))
        self.error_code = error_code


class StreamError(ProtocolError):
    """The peer broke a rule that ends one stream (section 5.4.2); the engine answers it with RST_STREAM."""


_HEADER = struct.Struct("!HBBBL")
_U32 = struct.Struct("!L")
_SETTING = struct.Struct("!HL")
_GOAWAY = struct.Struct("!LL")

unpack_header = _HEADER.unpack_from
"""(length >> 8, length & 255, kind, flags, stream id with the reserved bit)."""
unpack_u32 = _U32.unpack_from
unpack_setting = _SETTING.unpack_from
unpack_goaway = _GOAWAY.unpack_from


def frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a payload of ``length`` bytes."""
    return _HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return _HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream_id) + payload


def settings(pairs: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame of (identifier, value) pairs."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in pairs))


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE; stream 0 means the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _U32.pack(increment))


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM."""
    return frame(RST_STREAM, 0, stream_id, _U32.pack(code))


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """A GOAWAY; ``debug`` is for the peer's log."""
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last_stream_id, code) + debug)


SETTINGS_ACK = frame(SETTINGS, ACK, 0)
