"""Message heads: which lists of fields are a request or a reply (RFC 9113, section 8), as frozen records.

A head that breaks a rule is *malformed*: a stream error, whatever else it says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from forebay.transport.fields import HOP_BY_HOP, Field, RawField
from forebay.transport.frames import ErrorCode, StreamError

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE_BAD = re.compile(rb"[\x00\r\n]|^[ \t]|[ \t]$")
_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
_PATH_BAD = re.compile(r"[^\x21-\x7e]|#")
_LENGTH = re.compile(r"[0-9]{1,18}")
_REQUEST_PSEUDO = frozenset({":method", ":scheme", ":authority", ":path"})
_RESPONSE_PSEUDO = frozenset({":status"})


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request's head. ``fields`` are the regular ones, names in lower case, cookies joined, ``host`` filled in."""

    method: str
    scheme: str
    path: str
    authority: str
    fields: tuple[Field, ...]
    content_length: int | None


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """A reply's head. ``headers`` has lower-case names; repeated fields are joined by a comma (RFC 9110, 5.2)."""

    status: int
    headers: Mapping[str, str]
    content_length: int | None


def malformed(reason: str) -> StreamError:
    """The error of section 8.1.1."""
    return StreamError(ErrorCode.PROTOCOL_ERROR, f"malformed message: {reason}")


def request_head(raw: Sequence[RawField]) -> RequestHead:
    """Checks and parses a request's fields.

    Raises:
        StreamError: malformed.
    """
    pseudo, fields = _split(raw, _REQUEST_PSEUDO)
    method, path = pseudo.get(":method", ""), pseudo.get(":path", "")
    if not _METHOD.fullmatch(method) or method == "CONNECT":
        raise malformed("no method that is served")
    if ":scheme" not in pseudo or not path or _PATH_BAD.search(path):
        raise malformed("no scheme or no path")
    if path[0] != "/" and (path != "*" or method != "OPTIONS"):
        raise malformed("the path does not start with a slash")
    authority = pseudo.get(":authority", "")
    hosts = [value for name, value in fields if name == "host"]
    if len(hosts) > 1 or (hosts and authority and hosts[0] != authority):
        raise malformed("host and :authority differ")
    if authority and not hosts:
        fields.insert(0, ("host", authority))
    return RequestHead(method, pseudo[":scheme"], path, authority, tuple(_join_cookies(fields)), _length(fields))


def reply_head(raw: Sequence[RawField]) -> ReplyHead:
    """Checks and parses a reply's fields.

    Raises:
        StreamError: malformed.
    """
    pseudo, fields = _split(raw, _RESPONSE_PSEUDO)
    status = pseudo.get(":status", "")
    if not re.fullmatch(r"[1-5][0-9][0-9]", status, re.ASCII) or status == "101":
        raise malformed("no status")
    headers: dict[str, str] = {}
    for name, value in fields:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return ReplyHead(int(status), MappingProxyType(headers), _length(fields))


def check_trailers(raw: Sequence[RawField]) -> None:
    """Trailers are plain fields.

    Raises:
        StreamError: a pseudo-header field or a malformed one.
    """
    _split(raw, frozenset())


def _split(raw: Sequence[RawField], allowed: frozenset[str]) -> tuple[dict[str, str], list[Field]]:
    pseudo: dict[str, str] = {}
    fields: list[Field] = []
    for raw_name, raw_value in raw:
        if _VALUE_BAD.search(raw_value):
            raise malformed("a value with a line end, NUL or outer blank")
        value = raw_value.decode("utf-8", "surrogateescape")
        if raw_name[:1] == b":":
            name = raw_name.decode("latin-1")
            if name not in allowed or name in pseudo or fields:
                raise malformed("a pseudo-header field that is unknown, repeated or late")
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(raw_name):
            raise malformed("a field name that is no lower-case token")
        name = raw_name.decode("ascii")
        if name in HOP_BY_HOP and (name, value) != ("te", "trailers"):
            raise malformed(f"the connection field {name}")
        fields.append((name, value))
    return pseudo, fields


def _length(fields: Sequence[Field]) -> int | None:
    lengths = {value for name, value in fields if name == "content-length"}
    if not lengths:
        return None
    value = lengths.pop()
    if lengths or not _LENGTH.fullmatch(value):
        raise malformed("a content-length that is no number, or two")
    return int(value)


def _join_cookies(fields: Sequence[Field]) -> Iterator[Field]:
    """Cookie crumbs become one field again (section 8.2.3)."""
    yield from (field for field in fields if field[0] != "cookie")
    cookies = [value for name, value in fields if name == "cookie"]
    if cookies:
        yield "cookie", "; ".join(cookies)
