"""What the store has threads do with the files of one block: make, write, seal, open, unlink. Blocking.

What opens a file returns the owner of its descriptor, so that it closes even if nobody waits for it any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import google_crc32c

from forebay_worker.directory import TierDirectory, is_open_elsewhere
from forebay_worker.files import BlockFile, Corrupt
from forebay_worker.seals import SealsLog


def create(tier: TierDirectory, block_id: str, length: int, dataset: str, present: dict[int, int] | None) -> BlockFile:
    """The file of a block that is to be filled: empty, or with the extents that a crash left and were verified."""
    if present is None:
        fd, part_map = tier.create_part(block_id, length, dataset)
    else:
        fd, part_map = tier.reopen_part(block_id, length, dataset, present)
    return BlockFile(fd, length, in_memory=tier.in_memory, crcs=present, part_map=part_map)


def put(tier: TierDirectory, block_id: str, data: bytes, dataset: str, *, is_read: bool) -> BlockFile:
    """A block of one extent, written and sealed. It is mapped only if somebody is about to read it: mapping a file and
    undoing that costs as much as making it."""
    is_mapped = tier.in_memory and is_read
    fd, part_map = tier.create_part(block_id, len(data), dataset, sparse=is_mapped)
    file = BlockFile(fd, len(data), in_memory=is_mapped, part_map=part_map)
    file.write([data], 0)
    file.land(0, google_crc32c.value(data))
    seal(tier, block_id, file, file.all_crcs(), dataset)
    return file


def seal(tier: TierDirectory, block_id: str, file: BlockFile, crcs: tuple[int, ...], dataset: str) -> None:
    """Gives a complete file its final name."""
    tier.seal(block_id, file.fd, file.length, crcs, dataset)
    file.settle()


def open_sealed(tier: TierDirectory, block_id: str, length: int, crcs: tuple[int, ...]) -> BlockFile:
    """A sealed block's file; ``crcs`` if the index has them. Raises ``Corrupt``: not as long as it was, or no sums."""
    fd, found = tier.open_block(block_id)
    try:
        if found != length:
            raise Corrupt("a block file changed its length", length=found, expected=length)
        sums = crcs or tier.read_crcs(block_id, length)
        if not sums:
            raise Corrupt("the sidecar of a block is missing or broken")
    except BaseException:
        os.close(fd)
        raise
    file = BlockFile(fd, length, in_memory=tier.in_memory, crcs=sums)
    file.doubt()
    return file


def remove(tier: TierDirectory, block_id: str, sealed: bool, files: list[BlockFile]) -> int | None:
    """Unlinks. ``files`` come along to be let go of here: the last user of an unlinked file waits while its pages are
    freed. A descriptor of the file if somebody else has it open still."""
    fd = _probe(tier, block_id) if sealed else None
    try:
        tier.remove(block_id, sealed=sealed)
    except BaseException:
        if fd is not None:
            os.close(fd)
        raise
    files.clear()
    if fd is not None and not is_open_elsewhere(fd):
        os.close(fd)
        fd = None
    return fd


def _probe(tier: TierDirectory, block_id: str) -> int | None:
    try:
        return tier.open_block(block_id)[0]
    except OSError:  # what cannot be opened can be unlinked all the same
        return None


def drop(file: BlockFile) -> None:
    """Lets go of a file on a thread."""


def shorten(log: SealsLog, block_ids: Iterable[str], until: int) -> None:
    """Keeps what the log says about these blocks, and all that stands behind ``until``."""
    log.rewrite(frozenset(map(bytes.fromhex, block_ids)), until)
