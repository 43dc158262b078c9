"""Records to bytes and back: orjson writes and parses, msgspec checks the shape against the record's types."""

from __future__ import annotations

from binascii import b2a_base64
from typing import Any, TypeVar

import msgspec
import orjson

from forebay.errors import InvalidRequest

WIRE_VERSION = 1
"""Version of every record below. Travels as the header ``forebay-wire``; a peer of another version is refused."""

WIRE_HEADER = "forebay-wire"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Base of all wire records: immutable, keyword-only, and strict about unknown fields.

    ``gc=False``: a frozen record of plain data is in no reference cycle, and a page of 10,000 entries with its layouts
    set off collections that took up to 50 ms.
    """


LONG = 64 << 10
"""Bodies above this (listings) are parsed in one go, straight into records: 9 instead of 22 ms for 10,000 entries."""

R = TypeVar("R", bound=Record)


def encode(record: Record) -> bytes:
    """The record as a JSON object (UTF-8, field order of the class).

    Raises:
        InvalidRequest: a text that is not Unicode (a lone surrogate, as in a file name that is no UTF-8), or an integer
            of more than 64 bits.
    """
    try:
        return orjson.dumps(record, default=_plain)
    except orjson.JSONEncodeError as e:
        kind = type(record).__name__
        raise InvalidRequest(f"this {kind} cannot be written as JSON: {e}", record=kind) from e


def _plain(value: Any) -> Any:
    """What orjson does not know: records, and bytes, which become base64."""
    if isinstance(value, bytes):
        return b2a_base64(value, newline=False).decode()
    return msgspec.structs.asdict(value)


def decode(kind: type[R], data: bytes | bytearray | memoryview) -> R:
    """A checked record from JSON bytes.

    Raises:
        InvalidRequest: not JSON, not an object, an unknown or missing field, a value of the wrong type or out of
            bounds; ``details["record"]`` names the record and the message names the field.
    """
    try:
        if len(data) > LONG:
            return msgspec.json.decode(data, type=kind)
        return msgspec.convert(orjson.loads(data), kind)
    except orjson.JSONDecodeError as e:
        raise InvalidRequest(f"the body is not JSON: {e}", record=kind.__name__) from e
    except (msgspec.ValidationError, RecursionError) as e:
        raise InvalidRequest(f"the body is no {kind.__name__}: {e}", record=kind.__name__) from e
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"the body is not JSON: {e}", record=kind.__name__) from e
