"""The data route ``GET /v1/blocks/{block_id}``: its path and query, its headers, and byte ranges inside a block.

A block is named twice: by its id in the path (what caches and logs see) and by its target in the query (what it is,
from which a worker derives the id itself and compares). Both forms are strict: one way to write each request, so a
worker may remember a request by its text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl, quote

import msgspec

from forebay.contracts.records import BlockTarget, ReadType
from forebay.errors import InvalidRequest, PeerMisbehaved, RangeNotSatisfiable

BLOCKS_PATH = "/v1/blocks"
TOUCH_PATH = "/v1/blocks:touch"
HINT_PATH = "/v1/blocks:hint"
FILL_PATH = "/v1/blocks:fill"
FREE_PATH = "/v1/blocks:free"
SETTINGS_PATH = "/v1/settings"
REBALANCE_PATH = "/v1/blocks:rebalance"
DRAIN_PATH = "/v1/worker:drain"
WEIGHT_PATH = "/v1/worker:weight"

TICKET_HEADER = "forebay-ticket"
"""The signed right to read (``contracts.tickets``)."""

HOP_HEADER = "forebay-hop"
"""``1`` on a request that an entry worker sent on; it is answered from cache or under store, never forwarded again."""

READ_TYPE_HEADER = "forebay-read-type"
"""A ``ReadType`` for this one request; absent is the worker's own ``read_type``."""

DEADLINE_HEADER = "forebay-deadline-ms"
"""Milliseconds that the caller still waits."""

COPY_HEADER = "forebay-copy"
"""``spare`` on a request to an entry worker: whatever its passive cache, it keeps a copy, but only in room beyond its
reserved bytes, and evicts nothing for it (location policy ``local-first-avoid-eviction``)."""

SOURCE_HEADER = "forebay-source"
"""A ``Source``: where the first bytes of the answer came from."""

SERVING_WEIGHT_HEADER = "forebay-serving-weight"
"""The worker's serving weight (0 to 1) at the time of the answer."""

CRC_HEADER = "forebay-crc32c"
"""CRC32C sums (8 hex digits each, joined by commas) of the extents that a hop's answer consists of; absent where the
range is not made of whole extents, or the sums are not known."""

OFFERED_HEADER = "forebay-offered"
"""Id of the member that keeps the block in its home's stead, because the home's policy admits nothing: clients ask it
first from then on."""

CRCS_MAX = 4096

ONLY_IF_CACHED = "only-if-cached"
"""Value of ``cache-control`` that forbids a fill: what is not here is 504 ``not_cached``."""

Source = Literal["mem", "ssd", "peer", "ufs"]

QUERY_LENGTH_MAX = 65_536
"""Characters of the query: a key of 4,096 characters takes up to 12 each when percent-encoded."""

_FIELDS = ("mount_id", "key", "size", "fingerprint", "index")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_HEX_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_RANGE = re.compile(r"bytes=(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})", re.ASCII)
_CONTENT_RANGE = re.compile(r"bytes (0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})/([1-9][0-9]{0,18})", re.ASCII)
_CRCS = re.compile(r"[0-9a-f]{8}(,[0-9a-f]{8})*", re.ASCII)
_READ_TYPES: dict[str, ReadType] = {name: name for name in get_args(ReadType)}


@dataclass(frozen=True)
class ByteRange:
    """Bytes ``start`` to ``stop`` (exclusive) of a block; never empty."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Bytes in the range."""
        return self.stop - self.start


def is_block_id(text: str) -> bool:
    """Whether ``text`` has the form of a block id: 32 lower-case hex digits."""
    return _HEX_ID.fullmatch(text) is not None


def block_query(target: BlockTarget) -> str:
    """The query that names ``target``, percent-encoded, without the question mark.

    Raises:
        InvalidRequest: a key or fingerprint that is not UTF-8 (lone surrogates).
    """
    try:
        key, fingerprint = quote(target.key, safe="/"), quote(target.fingerprint, safe="")
        mount_id = quote(target.mount_id, safe="")
    except UnicodeEncodeError as e:
        raise InvalidRequest("a block target must be UTF-8 text", field="key") from e
    return f"mount_id={mount_id}&key={key}&size={target.size}&fingerprint={fingerprint}&index={target.index}"


def block_path(block_id: str, target: BlockTarget) -> str:
    """Path and query of the data route for one block."""
    return f"{BLOCKS_PATH}/{block_id}?{block_query(target)}"


def parse_block_query(query: str) -> BlockTarget:
    """The target that a raw query string names.

    Raises:
        InvalidRequest: a field that is missing, unknown, given twice, out of bounds or not UTF-8; a number with a sign
            or leading zeros; a query over ``QUERY_LENGTH_MAX``.
    """
    if len(query) > QUERY_LENGTH_MAX:
        raise InvalidRequest("the query is too long", limit=QUERY_LENGTH_MAX)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=5)
    except (ValueError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"want the query {', '.join(_FIELDS)}: {e}") from e
    fields = dict(pairs)
    if len(pairs) != len(_FIELDS) or set(fields) != set(_FIELDS):
        raise InvalidRequest(f"want the query fields {', '.join(_FIELDS)}, each once")
    for name in ("size", "index"):
        if _NUMBER.fullmatch(fields[name]) is None:
            raise InvalidRequest(f"{name} is no whole number", field=name)
    try:
        return msgspec.convert({**fields, "size": int(fields["size"]), "index": int(fields["index"])}, BlockTarget)
    except msgspec.ValidationError as e:
        raise InvalidRequest(f"the query is no BlockTarget: {e}") from e


def format_range(start: int, stop: int) -> str:
    """The ``range`` header for bytes ``start`` to ``stop`` (exclusive; at least one byte)."""
    return f"bytes={start}-{stop - 1}"


def parse_range(header: str | None, length: int) -> ByteRange:
    """The part of a block of ``length`` bytes (at least 1) that a ``range`` header asks for; absent is the whole block.

    One form only, ``bytes=first-last``, and inside the block: a client knows the length from its layout, so a range
    that reaches beyond is a mistake to be told, not to be clamped.

    Raises:
        InvalidRequest: any other form (open ends, suffixes, several ranges).
        RangeNotSatisfiable: not inside the block; ``details`` hold its length.
    """
    if header is None:
        return ByteRange(0, length)
    match = _RANGE.fullmatch(header)
    if match is None:
        raise InvalidRequest("want one range of the form bytes=first-last", header="range")
    first, last = int(match[1]), int(match[2])
    if first > last or last >= length:
        raise RangeNotSatisfiable(f"the range does not lie inside the block's {length} bytes", length=length)
    return ByteRange(first, last + 1)


def format_content_range(part: ByteRange, length: int) -> str:
    """The ``content-range`` header of an answer with ``part`` of a block of ``length`` bytes."""
    return f"bytes {part.start}-{part.stop - 1}/{length}"


def parse_content_range(header: str | None) -> tuple[ByteRange, int]:
    """The range and the whole length that a peer says it sent.

    Raises:
        PeerMisbehaved: absent, another form, or impossible numbers.
    """
    match = _CONTENT_RANGE.fullmatch(header or "")
    if match is None:
        raise PeerMisbehaved("the peer sent no usable content-range", header="content-range")
    first, last, length = int(match[1]), int(match[2]), int(match[3])
    if first > last or last >= length:
        raise PeerMisbehaved("the peer sent an impossible content-range", header="content-range")
    return ByteRange(first, last + 1), length


def format_crcs(crcs: Sequence[int]) -> str:
    """The ``forebay-crc32c`` header."""
    return ",".join(f"{crc:08x}" for crc in crcs)


def parse_crcs(header: str | None) -> tuple[int, ...]:
    """The sums that a peer sent; none if the header is absent.

    Raises:
        PeerMisbehaved: another form, or more than ``CRCS_MAX``.
    """
    if header is None:
        return ()
    if len(header) > 9 * CRCS_MAX or _CRCS.fullmatch(header) is None:
        raise PeerMisbehaved("the peer sent malformed checksums", header=CRC_HEADER)
    return tuple(int(part, 16) for part in header.split(","))


def parse_copy(value: str | None) -> bool:
    """Whether the header asks for a copy in spare room. Raises ``InvalidRequest``."""
    if value not in {None, "spare"}:
        raise InvalidRequest("want spare or nothing", header=COPY_HEADER)
    return value is not None


def parse_read_type(header: str | None, default: ReadType) -> ReadType:
    """The read type that a request asks for.

    Raises:
        InvalidRequest: a name that is no read type.
    """
    if header is None:
        return default
    try:
        return _READ_TYPES[header]
    except KeyError as e:
        raise InvalidRequest(f"want one of {', '.join(_READ_TYPES)}", header=READ_TYPE_HEADER) from e
