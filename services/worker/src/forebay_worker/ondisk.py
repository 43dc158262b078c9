"""The two forms in which a tier directory keeps checksums: the ``.map`` sidecar and the ``seals`` log. Pure.

A sidecar (version 1) belongs to one block of more than one extent::

    magic "FBMP"  version u16  name length u16  extent size u32  block length u64  block id 16 bytes
    mount name (UTF-8)    CRC32C of all of the above u32    bitmap, one bit an extent    CRC32C u32 per extent

It is written extent by extent while the block fills: the sum, then the bit. Neither is believed by itself: after a
crash an extent counts when its bit is set and its bytes have the sum.

The ``seals`` log (version 1) is 16 bytes of head and then records of 48 bytes, each with a CRC32C of its own: blocks
under 16 MiB that were sealed here (id, length, second of the epoch, up to four sums, mount number), names of mounts by
number, and *synced*
records: all that stands before a given offset, and the bytes of those blocks, had reached the disk. It is only
appended to; of several records of a block the last counts, and reading ends at the first that is not whole.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import google_crc32c

from forebay.contracts.records import EXTENT_SIZE
from forebay_worker.extents import Geometry

MAP_MAGIC, MAP_VERSION = b"FBMP", 1
SEALS_MAGIC, SEALS_VERSION = b"FBSEALS\0", 1
NAME_BYTES_MAX = 1020
"""A mount id has at most 255 characters."""

EXTENTS_MAX = 1 << 20
"""Of a sidecar that is believed: a block of 4 TiB."""

MAP_BYTES_MAX = 64 + NAME_BYTES_MAX + EXTENTS_MAX * 5

_MAP_HEAD = struct.Struct("<4sHHIQ16s")
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class MapHead:
    """What a sidecar says about its block, and where its parts lie."""

    block_id: str
    geometry: Geometry
    dataset: str

    @property
    def head_bytes(self) -> int:
        """Bytes before the bitmap."""
        return _MAP_HEAD.size + len(self.dataset.encode()) + _CRC.size

    @property
    def bitmap_bytes(self) -> int:
        """Bytes of the bitmap."""
        return -(-self.geometry.count // 8)

    @property
    def total_bytes(self) -> int:
        """Bytes of the sidecar."""
        return self.head_bytes + self.bitmap_bytes + self.geometry.count * _CRC.size

    def bit_at(self, extent: int) -> int:
        """Offset of the byte that holds an extent's bit (bit ``extent % 8``)."""
        return self.head_bytes + extent // 8

    def crc_at(self, extent: int) -> int:
        """Offset of an extent's sum."""
        return self.head_bytes + self.bitmap_bytes + extent * _CRC.size

    def encode(self) -> bytes:
        """The head alone."""
        name = self.dataset.encode()
        head = _MAP_HEAD.pack(
            MAP_MAGIC,
            MAP_VERSION,
            len(name),
            self.geometry.extent_size,
            self.geometry.length,
            bytes.fromhex(self.block_id),
        )
        return head + name + _CRC.pack(google_crc32c.value(head + name))


def encode_crc(crc: int) -> bytes:
    """One sum."""
    return _CRC.pack(crc)


def empty_map(head: MapHead) -> bytes:
    """A sidecar with no extent."""
    return head.encode() + bytes(head.bitmap_bytes + head.geometry.count * _CRC.size)


def full_map(head: MapHead, crcs: Iterable[int]) -> bytes:
    """The sidecar of a complete block."""
    bits = (1 << head.geometry.count) - 1
    return head.encode() + bits.to_bytes(head.bitmap_bytes, "little") + b"".join(map(_CRC.pack, crcs))


def decode_map(data: bytes, block_id: str) -> tuple[MapHead, dict[int, int]] | None:
    """Head and claimed sums by extent of a sidecar; ``None`` if it is not whole, of another version or block."""
    if len(data) < _MAP_HEAD.size + _CRC.size:
        return None
    magic, version, name_bytes, extent_size, length, raw_id = _MAP_HEAD.unpack_from(data)
    end = _MAP_HEAD.size + name_bytes
    if (magic, version, raw_id.hex()) != (MAP_MAGIC, MAP_VERSION, block_id) or len(data) < end + _CRC.size:
        return None
    if _CRC.unpack_from(data, end)[0] != google_crc32c.value(data[:end]) or not extent_size or not length:
        return None
    head = MapHead(block_id, Geometry(length, extent_size), data[_MAP_HEAD.size : end].decode("utf-8", "replace"))
    if head.geometry.count > EXTENTS_MAX or len(data) != head.total_bytes:
        return None
    bits = int.from_bytes(data[head.head_bytes : head.head_bytes + head.bitmap_bytes], "little")
    crcs = struct.unpack_from(f"<{head.geometry.count}I", data, head.crc_at(0))
    return head, {extent: crc for extent, crc in enumerate(crcs) if bits >> extent & 1}


# -- the seals log

_SEALS_HEAD = struct.Struct("<8sHHI")
SEALS_HEAD_BYTES = _SEALS_HEAD.size
_RECORD = struct.Struct("<BBH16sII4I")
_MOUNT = struct.Struct("<BBH40s")
_SYNCED = struct.Struct("<BBHQ32x")
RECORD_BYTES = 48
_SEAL, _NAME, _MARK = 1, 2, 3
_NAME_CHUNK = 40
CRCS_MAX = 4
NUMBER_MAX = 65_535


@dataclass(frozen=True)
class Sealed:
    """What the log knows of one block. ``place`` is the record's offset. ``is_durable``: the block had reached the disk
    when a synced record was written."""

    length: int
    crcs: tuple[int, ...]
    dataset: str
    sealed_at_s: int = 0
    place: int = 0
    is_durable: bool = False


@dataclass
class Seals:
    """A log that was read. ``end`` is where whole records end; ``records`` counts them."""

    blocks: dict[bytes, Sealed] = field(default_factory=dict)
    datasets: dict[int, str] = field(default_factory=dict)
    end: int = SEALS_HEAD_BYTES
    records: int = 0

    def get(self, block_id: str) -> Sealed | None:
        """The block's last record."""
        return self.blocks.get(bytes.fromhex(block_id))


def seals_head() -> bytes:
    """The first bytes of a log."""
    return _SEALS_HEAD.pack(SEALS_MAGIC, SEALS_VERSION, RECORD_BYTES, 0)


def _checked(body: bytes) -> bytes:
    return body + _CRC.pack(google_crc32c.value(body))


def encode_seal(block_id: str, length: int, crcs: tuple[int, ...], dataset: int, sealed_at_s: int = 0) -> bytes:
    """The record of a sealed block of up to ``CRCS_MAX`` extents."""
    padded = crcs + (0,) * (CRCS_MAX - len(crcs))
    return _checked(
        _RECORD.pack(_SEAL, len(crcs), dataset, bytes.fromhex(block_id), length, sealed_at_s & 0xFFFFFFFF, *padded)
    )


def encode_name(number: int, dataset: str) -> bytes:
    """The records that give a mount its number."""
    text = dataset.encode()
    chunks = [text[at : at + _NAME_CHUNK] for at in range(0, max(1, len(text)), _NAME_CHUNK)]
    return b"".join(_checked(_MOUNT.pack(_NAME, part, number, chunk)) for part, chunk in enumerate(chunks))


def encode_synced(until: int) -> bytes:
    """Everything that stands before the offset ``until``, and the blocks it names, is on the disk."""
    return _checked(_SYNCED.pack(_MARK, 0, 0, until))


def decode_seals(data: bytes, extent_size: int = EXTENT_SIZE) -> Seals | None:
    """What a log says; ``None`` if its head is not ours or of another version."""
    if data[:SEALS_HEAD_BYTES] != seals_head():
        return None
    seals = Seals()
    offsets: dict[bytes, int] = {}
    names = _Names(seals.datasets)
    synced = 0
    for at, record in _whole_records(data, SEALS_HEAD_BYTES):
        kind = record[0]
        if kind == _SEAL:
            _, count, number, raw_id, length, sealed_at_s, *crcs = _RECORD.unpack_from(record)
            if not 0 < count <= CRCS_MAX or -(-length // extent_size) != count:
                break
            seals.blocks[raw_id] = Sealed(length, tuple(crcs[:count]), seals.datasets.get(number, ""), sealed_at_s, at)
            offsets[raw_id] = at
        elif kind == _NAME:
            names.take(record)
        elif kind == _MARK:
            synced = max(synced, _SYNCED.unpack_from(record)[3])
        else:
            break
        seals.end = at + RECORD_BYTES
        seals.records += 1
    for raw_id, at in offsets.items():
        if at < synced:
            seals.blocks[raw_id] = replace(seals.blocks[raw_id], is_durable=True)
    return seals


class _Names:
    """Mounts by number, as a log gives them their names one piece after the other."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self._pieces: dict[int, list[bytes]] = {}

    def take(self, record: bytes) -> None:
        """The next record of a name."""
        _, part, number, chunk = _MOUNT.unpack_from(record)
        pieces = self._pieces[number] = [*(self._pieces.get(number, []) if part else []), chunk.rstrip(b"\0")]
        self.names[number] = b"".join(pieces).decode("utf-8", "replace")


def shortened(seals: Seals, live: Container[bytes]) -> tuple[bytes, dict[str, int]]:
    """A log of these blocks alone, and the numbers of its mounts. What was on the disk comes first, and a *synced*
    record behind it."""
    kept = {raw: sealed for raw, sealed in seals.blocks.items() if raw in live}
    numbers = {name: n for n, name in enumerate(sorted({s.dataset for s in kept.values() if s.dataset}), 1)}
    parts = [seals_head(), *(encode_name(n, name) for name, n in numbers.items())]
    durable = [(raw, sealed) for raw, sealed in kept.items() if sealed.is_durable]
    parts += [_again(raw, sealed, numbers) for raw, sealed in durable]
    parts += [encode_synced(sum(map(len, parts)))] if durable else []
    parts += [_again(raw, sealed, numbers) for raw, sealed in kept.items() if not sealed.is_durable]
    return b"".join(parts), numbers


def _again(raw: bytes, sealed: Sealed, numbers: dict[str, int]) -> bytes:
    number = numbers.get(sealed.dataset, 0)
    return encode_seal(raw.hex(), sealed.length, sealed.crcs, number, sealed.sealed_at_s)


def free_number(numbers: Mapping[str, int]) -> int:
    """A number that no mount has."""
    last = max(numbers.values(), default=0)
    return last + 1 if last < NUMBER_MAX else min(set(range(1, NUMBER_MAX + 1)) - set(numbers.values()))


def carried(tail: bytes, *, start: int, at: int, names: Mapping[int, str], numbers: dict[str, int]) -> bytes:
    """Records that stood from byte ``start`` on in a log whose mounts had these ``names`` there, for a log in which
    they stand from ``at`` on and mounts have these ``numbers`` (new ones are added). A *synced* record that speaks of
    what stood before ``start`` alone is left out: less is known to be on the disk then, never more."""
    known, places, parts = _Names(dict(names)), dict[int, int](), list[bytes]()
    for offset, record in _whole_records(tail, 0):
        places[start + offset] = at
        part = b""
        if record[0] == _SEAL:
            _, count, number, raw_id, length, sealed_at_s, *crcs = _RECORD.unpack_from(record)
            name = known.names.get(number, "")
            if name and name not in numbers:
                numbers[name] = free_number(numbers)
                part = encode_name(numbers[name], name)
            part += encode_seal(raw_id.hex(), length, tuple(crcs[:count]), numbers.get(name, 0), sealed_at_s)
        elif record[0] == _NAME:
            known.take(record)
        elif (until := _SYNCED.unpack_from(record)[3]) in places:
            part = encode_synced(places[until])
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _whole_records(data: bytes, first: int) -> Iterator[tuple[int, bytes]]:
    for at in range(first, len(data) - RECORD_BYTES + 1, RECORD_BYTES):
        record = data[at : at + RECORD_BYTES]
        if _CRC.unpack_from(record, RECORD_BYTES - _CRC.size)[0] != google_crc32c.value(record[: -_CRC.size]):
            return
        yield at, record
