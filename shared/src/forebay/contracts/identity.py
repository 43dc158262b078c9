"""How things are named by their content: nothing random goes in, so a restarted cluster finds its cache warm.

All hashes are BLAKE2b with a ``person`` tag per kind and length-prefixed parts, so no two inputs collide by joining.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

_LENGTHS = tuple(length.to_bytes(8, "little") for length in range(1024))
"""Of the usual parts: hashing names in bulk is half of what a client does for a listing."""


def _digest(person: bytes, size: int, *parts: bytes) -> bytes:
    h = blake2b(digest_size=size, person=person)
    for part in parts:
        h.update(_part(part))
    return h.digest()


def _part(part: bytes) -> bytes:
    return len(part).to_bytes(8, "little") + part


def ufs_id(scheme: str, endpoint: str, root: str) -> str:
    """32 hex digits that name an under store and its root (bucket and prefix are the root's caller's business).

    ``endpoint`` is empty for the scheme's own default; ``root`` is the bucket, or the directory for ``file``.
    """
    return _digest(b"fb-ufs", 16, scheme.encode(), endpoint.encode(), root.encode()).hex()


def version_id(ufs: str, key: str, fingerprint: str) -> str:
    """32 hex digits that name one version of one file: (ufs id, full key below the UFS root, fingerprint)."""
    return _digest(b"fb-version", 16, bytes.fromhex(ufs), key.encode(), fingerprint.encode()).hex()


def block_id(version: str, block_size: int, index: int) -> str:
    """32 hex digits that name block ``index`` (0-based) of a version cut into blocks of ``block_size`` bytes."""
    return _digest(
        b"fb-block", 16, bytes.fromhex(version), block_size.to_bytes(8, "little"), index.to_bytes(8, "little")
    ).hex()


def inode_number(mount_path: str, key: str) -> int:
    """63-bit ``st_ino`` of a name: equal on every master, stable over restarts, never 0 or 1 (1 is the FUSE root)."""
    n = int.from_bytes(_digest(b"fb-inode", 8, mount_path.encode(), key.encode()), "little") >> 1
    return max(n, 2)


def version_ids(ufs: str, keys_and_fingerprints: Iterable[tuple[str, str]]) -> list[str]:
    """As ``version_id`` for many files of one under store, in less than half the time."""
    begun = blake2b(_part(bytes.fromhex(ufs)), digest_size=16, person=b"fb-version").copy
    found, usual = [], len(_LENGTHS)
    for key, fingerprint in keys_and_fingerprints:
        name, tag, h = key.encode(), fingerprint.encode(), begun()
        if len(name) < usual and len(tag) < usual:
            h.update(_LENGTHS[len(name)] + name + _LENGTHS[len(tag)] + tag)
        else:
            h.update(_part(name) + _part(tag))
        found.append(h.hexdigest())
    return found


def inode_numbers(mount_path: str, keys: Iterable[str]) -> list[int]:
    """As ``inode_number`` for many names of one mount."""
    begun = blake2b(_part(mount_path.encode()), digest_size=8, person=b"fb-inode").copy
    found, usual = [], len(_LENGTHS)
    for key in keys:
        name, h = key.encode(), begun()
        h.update(_LENGTHS[len(name)] + name if len(name) < usual else _part(name))
        number = int.from_bytes(h.digest(), "little") >> 1
        found.append(number if number > 2 else 2)
    return found


def block_count(size: int, block_size: int) -> int:
    """Blocks of a file of ``size`` bytes; an empty file has none."""
    return -(-size // block_size)


def block_length(size: int, block_size: int, index: int) -> int:
    """Bytes in block ``index``; the last one may be short. Zero or less means that there is no such block."""
    return max(0, min(block_size, size - index * block_size))
