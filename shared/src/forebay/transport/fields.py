"""Header compression (RFC 7541) at the price of a dictionary look-up.

Sending: no dynamic table, no Huffman. Each field has one form for ever, so its bytes are cached and a block is their
concatenation; the first block of a connection says that the table is empty. Receiving: the ``hpack`` library decodes,
and we announce a table of size 0, so that nearly every block means the same whenever it comes: those are remembered
whole, with what was parsed from them. Together this halves the cost of a small request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from forebay.errors import InternalError
from forebay.transport.frames import ErrorCode, ProtocolError

Field = tuple[str, str]
RawField = tuple[bytes, bytes]
H = TypeVar("H")

TABLE_SIZE_ZERO = b"\x20"
"""The instruction that opens our first block: dynamic table size 0 (RFC 7541, section 6.3)."""

CACHED_FIELDS_MAX = 4096
CACHED_VALUE_BYTES_MAX = 1024
MEMO_BLOCKS_MAX = 1024
MEMO_BLOCK_BYTES_MAX = 2048

HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"})
"""Fields of HTTP/1.1 connections: never sent (RFC 9113, section 8.2.2); they encode to nothing."""

NEVER_INDEXED = frozenset({"authorization", "cookie", "set-cookie", "forebay-ticket"})
"""Secrets: marked so that no hop may put them into a compression table (RFC 7541, section 7.1.3)."""

_STATIC: Mapping[RawField, int] = MappingProxyType(
    {field: index for index, field in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
)
_STATIC_NAMES: Mapping[bytes, int] = MappingProxyType({name: index for (name, _), index in _STATIC.items()})


def _integer(value: int, prefix_bits: int, first: int) -> bytes:
    """RFC 7541, section 5.1, with the pattern ``first`` in the bits above the prefix."""
    limit = (1 << prefix_bits) - 1
    if value < limit:
        return bytes((first | value,))
    out = bytearray((first | limit,))
    value -= limit
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_field(name: str, value: str) -> bytes:
    """One field, independent of any state; nothing for hop-by-hop fields.

    Raises:
        InternalError: a character that would let a value pass for another field (our bug, not the peer's).
    """
    name = name.lower()
    if name in HOP_BY_HOP:
        return b""
    raw_name, raw_value = name.encode("utf-8"), value.encode("utf-8", "surrogateescape")
    if not raw_name or any(c in raw_value for c in b"\r\n\0") or any(c <= 0x20 or c >= 0x7F for c in raw_name):
        raise InternalError(f"the header field {name!r} cannot be sent")
    if (index := _STATIC.get((raw_name, raw_value))) is not None and raw_value:
        return _integer(index, 7, 0x80)
    first = 0x10 if name in NEVER_INDEXED else 0x00
    if (index := _STATIC_NAMES.get(raw_name)) is not None:
        head = _integer(index, 4, first)
    else:
        head = bytes((first,)) + _integer(len(raw_name), 7, 0) + raw_name
    return head + _integer(len(raw_value), 7, 0) + raw_value


class FieldEncoder:
    """Encodes blocks from cached fields; one per server or client, shared by its connections."""

    def __init__(self) -> None:
        self._cache: dict[Field, bytes] = {}

    def encode(self, fields: Iterable[Field]) -> bytes:
        """A header block without the opening instruction."""
        get, miss = self._cache.get, self._miss
        return b"".join([get(field) or miss(field) for field in fields])

    def _miss(self, field: Field) -> bytes:
        encoded = encode_field(*field)
        if len(field[1]) <= CACHED_VALUE_BYTES_MAX and not (field[0] == ":path" and "?" in field[1]):
            if len(self._cache) >= CACHED_FIELDS_MAX:
                self._cache.clear()
            self._cache[field] = encoded
        return encoded


class Memo(Generic[H]):
    """What stateless blocks meant; bounded by `MEMO_BLOCKS_MAX` blocks of `MEMO_BLOCK_BYTES_MAX` bytes."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, H] = {}

    def put(self, block: bytes, head: H) -> None:
        """Remembers ``head``; full means that all is forgotten (dates and lengths make most entries short-lived)."""
        if len(block) <= MEMO_BLOCK_BYTES_MAX:
            if len(self.blocks) >= MEMO_BLOCKS_MAX:
                self.blocks.clear()
            self.blocks[block] = head


class HeadDecoder(Generic[H]):
    """One connection's decoder: blocks to parsed heads.

    A block is stateless when the table has no room before it, has none after it, and the block itself changes no size:
    then its meaning depends on its bytes alone, and the memo may be shared by all connections of one role.
    """

    def __init__(self, parse: Callable[[list[RawField]], H], memo: Memo[H], list_bytes_max: int) -> None:
        self._parse = parse
        self._memo = memo
        self._hpack = Decoder(max_header_list_size=list_bytes_max)

    def size_agreed(self) -> None:
        """The peer acknowledged our SETTINGS with a table of size 0: from now on it may use no other."""
        self._hpack.max_allowed_table_size = 0

    def head(self, block: bytes) -> H:
        """The parsed head of a message.

        Raises:
            ProtocolError: not HPACK, or longer than the limit: the connection's compression state is lost.
            StreamError: HPACK, but no well-formed head (from the parser).
        """
        stateless = self._hpack.header_table_size == 0 and block[:1] != TABLE_SIZE_ZERO
        if stateless and (known := self._memo.blocks.get(block)) is not None:
            return known
        head = self._parse(self.fields(block))
        if stateless and self._hpack.header_table_size == 0:
            self._memo.put(block, head)
        return head

    def fields(self, block: bytes) -> list[RawField]:
        """The fields of a block, unparsed (trailers; blocks of streams that are gone)."""
        try:
            return self._hpack.decode(block, raw=True)  # type: ignore[return-value]  # HeaderTuple is a tuple of two bytes
        except OversizedHeaderListError as e:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "the header list is too long") from e
        except HPACKError:  # its text quotes the block, and that may hold a ticket
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, "the header block does not decode") from None
