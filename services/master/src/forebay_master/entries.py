"""From what an under store says of a name, to the row that is kept, to the entry with its layout. Pure.

Inode number and version id are computed once, when a name is synced: a page of 10,000 entries is then built without
hashing anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from forebay.contracts import Entry, Layout, Mount, identity
from forebay.ufs import UfsEntry, UfsFile, UfsUri
from forebay_master.namespace import directory_inode, name_of

FILE, DIRECTORY = 0, 1
DIRECTORY_MODE = 0o555
FINGERPRINT_CHARS_MAX = 255
_INT64_MAX = (1 << 63) - 1


class Row(NamedTuple):
    """One name of one directory as it is kept: the columns of the table ``inodes`` after ``listing``, in order.

    ``version`` is the 16-byte version id of a file, empty for a directory.
    """

    name: str
    kind: int
    size: int
    mtime_ns: int
    mode: int
    inode: int
    fingerprint: str
    version: bytes


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
        inode = identity.inode_number(self.mount.path, found.key)
        if not -_INT64_MAX <= found.mtime_ns <= _INT64_MAX:
            return None
        if not isinstance(found, UfsFile):
            return Row(name, DIRECTORY, 0, found.mtime_ns, DIRECTORY_MODE, inode, "", b"")
        if not 0 < len(found.fingerprint) <= FINGERPRINT_CHARS_MAX or not 0 <= found.size <= _INT64_MAX:
            return None
        full_key = f"{self.full_prefix}/{name}" if self.full_prefix else name
        version = bytes.fromhex(identity.version_id(self.mount.ufs_id, full_key, found.fingerprint))
        mode = found.mode & 0o777
        return Row(name, FILE, found.size, found.mtime_ns, mode, inode, found.fingerprint, version)

    def entry(self, row: Row) -> Entry:
        """The row as clients see it."""
        name, kind, size, mtime_ns, mode, inode, fingerprint, version = row
        if kind == DIRECTORY:
            return Entry(name=name, kind="dir", inode=inode, mode=mode, mtime_ns=mtime_ns)
        layout = Layout(
            key=f"{self.directory}/{name}" if self.directory else name,
            size=size,
            fingerprint=fingerprint,
            version_id=version.hex(),
            block_size=self.mount.block_size,
        )
        return Entry(name=name, kind="file", inode=inode, mode=mode, mtime_ns=mtime_ns, size=size, layout=layout)


def given_directory(path: str) -> Entry:
    """A directory that exists because of mounts: a mount point, or one above it."""
    return Entry(name=name_of(path), kind="dir", inode=directory_inode(path), mode=DIRECTORY_MODE, mtime_ns=0)
