"""Records to bytes and back: orjson writes and parses, msgspec checks the shape against the record's types."""

from __future__ import annotations

import difflib
from binascii import b2a_base64
from itertools import islice
from typing import Any, TypeVar

import msgspec
import orjson

from forebay.contracts.unknown import Found, without_unknown
from forebay.errors import InvalidRequest

WIRE_VERSION = 1
"""Version of every record below. Travels as the header ``forebay-wire``; a peer of the version before or after is
taken, one of any other is refused (`versions`). A field that is new in a version has a default, and one goes only when
the version before no longer needs it."""

WIRE_HEADER = "forebay-wire"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """Base of all wire records: immutable, keyword-only, and strict about unknown fields.

    ``gc=False``: a frozen record of plain data is in no reference cycle, and a page of 10,000 entries with its layouts
    set off collections that took up to 50 ms.
    """


LONG = 64 << 10
"""Bodies above this (listings) are parsed in one go, straight into records: 9 instead of 22 ms for 10,000 entries."""

NAMES_MAX, NAME_MAX = 8, 64
"""Unknown names for which a near one is looked for, and characters of each that are looked at and repeated."""

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
        return _decoded(kind, data)
    except msgspec.ValidationError as e:
        raise _refused(kind, f"{e}{_nearest(kind, data)}") from e


def decode_newer(kind: type[R], data: bytes | bytearray | memoryview) -> tuple[R, frozenset[str]]:
    """As ``decode``, of JSON that a newer build may have written: fields that we do not know are left out, and named
    (``Member.zone``). Everything else is checked as ever.

    A record without such fields costs what ``decode`` does; with them it is parsed twice and walked through.

    Raises:
        InvalidRequest: as ``decode``, but for unknown fields.
    """
    try:
        return _decoded(kind, data), frozenset()
    except msgspec.ValidationError:
        value, found = without_unknown(kind, _parsed(kind, data))
    try:
        return msgspec.convert(value, kind), frozenset(f"{record.__name__}.{name}" for record, name in found)
    except msgspec.ValidationError as e:
        raise _refused(kind, str(e)) from e


def decode_stored(kind: type[R], data: bytes | bytearray | memoryview) -> R:
    """A record that was kept (in ZooKeeper, in a state directory, in a ticket), maybe by a newer build than ours.

    Raises:
        InvalidRequest: as ``decode_newer``.
    """
    return decode_newer(kind, data)[0]


def _decoded(kind: type[R], data: bytes | bytearray | memoryview) -> R:
    """Raises ``InvalidRequest`` for what is no JSON, and msgspec's own error for what is no ``kind``."""
    try:
        if len(data) > LONG:
            return msgspec.json.decode(data, type=kind)
        return msgspec.convert(orjson.loads(data), kind)
    except RecursionError as e:
        raise _refused(kind, str(e)) from e
    except msgspec.ValidationError:
        raise
    except (orjson.JSONDecodeError, msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"the body is not JSON: {e}", record=kind.__name__) from e


def _parsed(kind: type[Record], data: bytes | bytearray | memoryview) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as e:
        raise InvalidRequest(f"the body is not JSON: {e}", record=kind.__name__) from e


def _refused(kind: type[Record], why: str) -> InvalidRequest:
    return InvalidRequest(f"the body is no {kind.__name__}: {why}", record=kind.__name__)


def _nearest(kind: type[Record], data: bytes | bytearray | memoryview) -> str:
    """What is meant by the first unknown field, in words; nothing when no name is near, or the fault is another."""
    found: Found = without_unknown(kind, _parsed(kind, data))[1]
    for record, name in islice(found, NAMES_MAX):
        close = difflib.get_close_matches(name[:NAME_MAX], record.__struct_encode_fields__, n=1, cutoff=0.6)
        if close:
            return f"; {name[:NAME_MAX]!r} is no field of {record.__name__}, did you mean {close[0]!r}?"
    return ""
