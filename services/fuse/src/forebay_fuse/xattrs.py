"""Extended attributes: which version a file is, who is home to it, and how much of it lies on this host."""

from __future__ import annotations

import errno
from collections.abc import Callable

from forebay.contracts import Layout
from forebay.contracts.identity import block_count
from forebay_fuse.answers import Answers
from forebay_fuse.errno_door import Refused
from forebay_fuse.flagged import TRACE_XATTR, Flagged
from forebay_fuse.names import Names
from forebay_fuse.protocol import replies, requests
from forebay_fuse.protocol.requests import Request
from forebay_fuse.sdk import Client

OURS = b"user."
"""Attributes of other kinds (labels, access lists) are not supported, and that is the answer: `ls -l` asks for two of
each file, and of no further file once it knows; to be told that a file has none it asks for all."""

BLOCKS_MAX = 256
"""Blocks of a file that are looked at; of a longer one the rest is not told."""


class Xattrs:
    """GETXATTR and LISTXATTR of files. Directories have none, but asking for ``user.forebay.trace.<traceparent>``
    flags them too."""

    def __init__(self, client: Client, names: Names, answers: Answers, flagged: Flagged) -> None:
        self._client, self._names, self._answers, self._flagged = client, names, answers, flagged
        self._values: dict[str, Callable[[Layout], str]] = {
            "user.forebay.fingerprint": lambda layout: layout.fingerprint,
            "user.forebay.location": self._location,
            "user.forebay.cached": self._cached,
        }

    def _location(self, layout: Layout) -> str:
        """The home of each block, joined by commas."""
        return ",".join(self._client.homes(layout, BLOCKS_MAX))

    def _cached(self, layout: Layout) -> str:
        """Blocks that lie whole in directories of this host, of all: ``3/8``."""
        return f"{self._client.blocks_here(layout, BLOCKS_MAX)}/{block_count(layout.size, layout.block_size)}"

    def get(self, request: Request) -> None:
        """The value, or its length where ``size`` is 0."""
        size, name = requests.xattr_in(request)
        if name.startswith(TRACE_XATTR):
            self._answer(request, size, self._flagged.flag(request.node_id, name[len(TRACE_XATTR) :]))
            return
        if not name.startswith(OURS):
            raise Refused(errno.ENOTSUP, "attributes of no such kind")
        found = self._values.get(name.decode(errors="replace"))
        layout = self._names.inode(request.node_id).entry.layout if found is not None else None
        if found is None or layout is None:
            raise Refused(errno.ENODATA, "no such attribute")
        self._answer(request, size, found(layout).encode())

    def names(self, request: Request) -> None:
        """The names, each with its NUL."""
        size, _ = requests.xattr_in(request)
        is_file = not self._names.inode(request.node_id).is_dir
        self._answer(request, size, b"".join(name.encode() + b"\0" for name in self._values if is_file))

    def _answer(self, request: Request, size: int, value: bytes) -> None:
        if size == 0:
            self._answers.ok(request.unique, replies.xattr_size(len(value)))
        elif size < len(value):
            raise Refused(errno.ERANGE, "the value is longer")
        else:
            self._answers.ok(request.unique, value)
