"""Names of one directory as columns: what a master's store holds of a listing, and what it gives those who ask for it.

A record with its layout takes 300 bytes of JSON and over a microsecond to build and to read; a column's value takes
60 bytes in all and a tenth of that. What follows from the name (inode, version id, key) is left out: `entries` makes it
again. Bytes are msgpack with a version in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from forebay.contracts import identity
from forebay.contracts.codec import Record
from forebay.contracts.records import Count, Entry, Layout
from forebay.errors import InvalidRequest

LEAF_VERSION = 1
LEAF_NAMES = 256
"""Names in one leaf: it is read as a whole to find one of them (20 µs)."""

DIRECTORY_BIT = 0o40000
"""In ``modes``, as ``st_mode`` has it."""


class Leaf(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Names in byte order and what belongs to each. ``modes`` have `DIRECTORY_BIT` for directories, whose size is 0 and
    whose fingerprint is ""."""

    version: int
    names: list[Annotated[str, Meta(max_length=1024)]]
    modes: list[Annotated[int, Meta(ge=0, le=DIRECTORY_BIT | 0o7777)]]
    sizes: list[Count]
    mtimes_ns: list[int]
    fingerprints: list[Annotated[str, Meta(max_length=255)]]

    def __len__(self) -> int:
        return len(self.names)


class Shared(Record, frozen=True):
    """What all names of one directory have in common. ``directory`` is a key below the mount, ``full_prefix`` the same
    below the root of the under store."""

    mount_path: str
    directory: str
    ufs_id: str
    full_prefix: str
    block_size: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Leaf).decode


def encode_leaf(leaf: Leaf) -> bytes:
    """The bytes of a leaf."""
    return _encode(leaf)


def decode_leaf(data: bytes) -> Leaf:
    """A checked leaf.

    Raises:
        InvalidRequest: not a leaf of this version.
    """
    try:
        leaf = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"these bytes are no names: {e}", record="Leaf") from e
    columns = (leaf.modes, leaf.sizes, leaf.mtimes_ns, leaf.fingerprints)
    if leaf.version != LEAF_VERSION or any(len(column) != len(leaf.names) for column in columns):
        raise InvalidRequest("these bytes are no names of this version", record="Leaf", version=leaf.version)
    return leaf


def cut(leaf: Leaf, start: int, end: int) -> Leaf:
    """The names from index ``start`` to before ``end``."""
    part = slice(start, end)
    return Leaf(
        leaf.version,
        leaf.names[part],
        leaf.modes[part],
        leaf.sizes[part],
        leaf.mtimes_ns[part],
        leaf.fingerprints[part],
    )


def entries(shared: Shared, leaves: Sequence[Leaf]) -> list[Entry]:
    """The names as records, with their layouts."""
    found: list[Entry] = []
    for leaf in leaves:
        found += _entries(shared, leaf)
    return found


def _entries(shared: Shared, leaf: Leaf) -> list[Entry]:
    head = f"{shared.directory}/" if shared.directory else ""
    full_head = f"{shared.full_prefix}/" if shared.full_prefix else ""
    keys = [head + name for name in leaf.names] if head else leaf.names
    full_keys = [full_head + name for name in leaf.names] if full_head != head else keys
    inodes = identity.inode_numbers(shared.mount_path, keys)
    versions = identity.version_ids(shared.ufs_id, zip(full_keys, leaf.fingerprints, strict=True))
    size_of_blocks = shared.block_size
    return [
        Entry(name=name, kind="dir", inode=inode, mode=mode & 0o777, mtime_ns=mtime_ns)
        if mode & DIRECTORY_BIT
        else Entry(
            name=name,
            kind="file",
            inode=inode,
            mode=mode,
            mtime_ns=mtime_ns,
            size=size,
            layout=Layout(key=key, size=size, fingerprint=fingerprint, version_id=version, block_size=size_of_blocks),
        )
        for name, key, inode, mode, mtime_ns, size, fingerprint, version in zip(
            leaf.names,
            keys,
            inodes,
            leaf.modes,
            leaf.mtimes_ns,
            leaf.sizes,
            leaf.fingerprints,
            versions,
            strict=True,
        )
    ]
