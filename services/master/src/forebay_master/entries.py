"""From what an under store says of a name, to the row that is kept, to the entry with its layout. Pure.

Inode number and version id follow from the name, the mount and the fingerprint. They are not kept: making them for a
page of 10,000 takes 12 ms, and who asks for leaves makes them itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from forebay.contracts import Entry, Mount, leaves
from forebay.contracts.leaves import DIRECTORY_BIT, LEAF_VERSION, Leaf, Shared
from forebay.ufs import UfsEntry, UfsFile, UfsUri
from forebay_master.namespace import directory_inode, name_of

FILE, DIRECTORY = 0, 1
DIRECTORY_MODE = 0o555
FINGERPRINT_CHARS_MAX = 255
_INT64_MAX = (1 << 63) - 1


class Row(NamedTuple):
    """One name of one directory as it is kept. A directory has size 0 and no fingerprint ("")."""

    name: str
    kind: int
    size: int
    mtime_ns: int
    mode: int
    fingerprint: str


@dataclass(frozen=True)
class Origin:
    """What all names of one directory of one mount share. ``full_prefix`` is the directory's key below the UFS root."""

    mount: Mount
    directory: str
    full_prefix: str

    @staticmethod
    def of(mount: Mount, directory: str) -> Origin:
        """``directory`` is a key below the mount, "" for its root."""
        return Origin(mount, directory, UfsUri.parse(mount.ufs_uri).full_key(directory))

    def row(self, found: UfsEntry) -> Row | None:
        """What to keep of a name; ``None`` for what no reply can carry (an overlong fingerprint, a wild number)."""
        name = name_of(found.key)
        if not -_INT64_MAX <= found.mtime_ns <= _INT64_MAX:
            return None
        if not isinstance(found, UfsFile):
            return Row(name, DIRECTORY, 0, found.mtime_ns, DIRECTORY_MODE, "")
        if not 0 < len(found.fingerprint) <= FINGERPRINT_CHARS_MAX or not 0 <= found.size <= _INT64_MAX:
            return None
        return Row(name, FILE, found.size, found.mtime_ns, found.mode & 0o777, found.fingerprint)

    @property
    def shared(self) -> Shared:
        """What clients need to make records of leaves."""
        mount = self.mount
        return Shared(
            mount_path=mount.path,
            directory=self.directory,
            ufs_id=mount.ufs_id,
            full_prefix=self.full_prefix,
            block_size=mount.block_size,
        )

    def entries(self, rows: Sequence[Row]) -> list[Entry]:
        """The rows as clients see them."""
        return leaves.entries(self.shared, (leaf_of(rows),))


def leaf_of(rows: Sequence[Row]) -> Leaf:
    """Rows in byte order as columns."""
    return Leaf(
        LEAF_VERSION,
        [row.name for row in rows],
        [row.mode | DIRECTORY_BIT if row.kind == DIRECTORY else row.mode for row in rows],
        [row.size for row in rows],
        [row.mtime_ns for row in rows],
        [row.fingerprint for row in rows],
    )


def given_directory(path: str) -> Entry:
    """A directory that exists because of mounts: a mount point, or one above it."""
    return Entry(name=name_of(path), kind="dir", inode=directory_inode(path), mode=DIRECTORY_MODE, mtime_ns=0)
