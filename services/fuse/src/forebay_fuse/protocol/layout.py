"""Structures, numbers and flags of the FUSE kernel protocol 7.45 (linux/fuse.h), little endian."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct

IN_HEADER = Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
OUT_HEADER = Struct("<IiQ")  # len error unique
UNIQUE = Struct("<Q")  # at UNIQUE_AT, of a request and of a reply
UNIQUE_AT = 8
OPCODE_UNIQUE = Struct("<IQ")  # opcode unique, at OPCODE_AT of a request
OPCODE_AT = 4
ATTR = Struct("<6Q10I")  # ino size blocks a/m/ctime, a/m/ctime_ns mode nlink uid gid rdev blksize flags
ENTRY = Struct("<QQQQII")  # nodeid generation entry_valid attr_valid entry_valid_ns attr_valid_ns
ENTRY_OUT = Struct("<QQQQII6Q10I")  # ENTRY, then ATTR
ATTR_OUT = Struct("<QII")  # attr_valid attr_valid_ns dummy
ENTRY_REPLY = Struct("<IiQQQQQII6Q10I")  # OUT_HEADER, then ENTRY_OUT
ATTR_REPLY = Struct("<IiQQII6Q10I")  # OUT_HEADER, then ATTR_OUT, then ATTR
OPEN_IN = Struct("<II")  # flags open_flags
OPEN_OUT = Struct("<QIi")  # fh open_flags backing_id
READ_IN = Struct("<QQIIQII")  # fh offset size read_flags lock_owner flags padding
WRITE_IN = Struct("<QQIIQII")  # fh offset size write_flags lock_owner flags padding
WRITE_OUT = Struct("<II")  # size padding
SETATTR_VALID = Struct("<II")  # valid padding, then what it names
FLUSH_IN = Struct("<QIIQ")  # fh unused padding lock_owner
RELEASE_IN = Struct("<QIIQ")  # fh flags release_flags lock_owner
FORGET_IN = Struct("<Q")  # nlookup
BATCH_FORGET_IN = Struct("<II")  # count dummy
FORGET_ONE = Struct("<QQ")  # nodeid nlookup
INIT_IN = Struct("<IIII")  # major minor max_readahead flags
INIT_FLAGS2 = Struct("<I")
INIT_OUT = Struct("<IIIIHHIIHHIIH22x")
DIRENT = Struct("<QQII")  # ino off namelen type
DIRENTPLUS = Struct("<QQQQII6Q10IQQII")  # ENTRY_OUT, then DIRENT
STATFS_OUT = Struct("<5Q4I24x")
INTERRUPT_IN = Struct("<Q")
ACCESS_IN = Struct("<II")
XATTR_IN = Struct("<II")  # size padding, then the name (GETXATTR)
XATTR_OUT = Struct("<II")  # size padding
NOTIFY_INODE = Struct("<Qqq")  # nodeid offset length
NOTIFY_ENTRY = Struct("<QII")  # parent namelen flags
BACKING_MAP = Struct("<iIQ")  # fd flags padding
BACKING_ID = Struct("<I")

MAJOR, MINOR = 7, 45
MINOR_LEAST = 31
"""Linux 5.4: what this code was written against at the least."""

ROOT_ID = 1


class Op(IntEnum):
    """Request kinds."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


_NAMES = {int(op): op.name.lower() for op in Op}


def name_of(opcode: int) -> str:
    """The name of a request kind, for logs and metrics."""
    return _NAMES.get(opcode, "unknown")


WRITING = frozenset(
    {
        Op.SETATTR, Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME, Op.LINK, Op.WRITE, Op.SETXATTR,
        Op.REMOVEXATTR, Op.CREATE, Op.FALLOCATE, Op.RENAME2, Op.COPY_FILE_RANGE, Op.TMPFILE,
    }
)  # fmt: skip
"""Requests that would change something: answered EROFS."""

SETS_SIZE = 1 << 3
"""Of SETATTR: the size."""

TRUNCATING = SETS_SIZE | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11
"""What may come with it: the times that go with it, the handle, the owner of locks, set-id bits to be taken away."""

SILENT = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT})
"""Requests that get no reply."""


class Init(IntFlag):
    """INIT flags that we use."""

    ASYNC_READ = 1 << 0
    DO_READDIRPLUS = 1 << 13
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    EXPLICIT_INVAL_DATA = 1 << 25
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    HAS_RESEND = 1 << 39


class Open(IntFlag):
    """Open reply flags that we use."""

    NONE = 0
    DIRECT_IO = 1
    KEEP_CACHE = 2
    CACHE_DIR = 8
    NOFLUSH = 32
    PASSTHROUGH = 128


NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY = 2, 3
EXPIRE_ONLY = 1
"""Flag of INVAL_ENTRY."""

IOC_BACKING_OPEN, IOC_BACKING_CLOSE = 0x4010E501, 0x4004E502
"""ioctl(2) requests on ``/dev/fuse``: a backing file in, its id out; the id back."""
