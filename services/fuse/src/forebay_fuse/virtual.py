"""``.forebay`` at the root of the mount: what the gateway says of itself, as text that ``cat`` shows.

Its node ids are fixed and lie above all others, so nothing of it is in the inode table, in the journal or in doubt
after a takeover. A text is made when it is opened; a handle that is not known (the gateway that gave it is gone) gets a
new one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, NamedTuple

from forebay_fuse.answers import Answers
from forebay_fuse.errno_door import Refused
from forebay_fuse.hints import NAME, Hints
from forebay_fuse.protocol import layout, replies, requests
from forebay_fuse.protocol.layout import Op
from forebay_fuse.protocol.replies import Attributes
from forebay_fuse.protocol.requests import Request
from forebay_fuse.view import BASE, VIRTUAL, View

OWN_NAME = VIRTUAL.encode() + b"\0"
_DOT = OWN_NAME[0]
TEXTS_MAX = 256
"""Open texts."""

TRACED = 256
"""Requests that are remembered."""

VALID_S = 3600.0
_DIRECT = int(layout.Open.DIRECT_IO | layout.Open.NOFLUSH)

Text = Callable[[], bytes]
Later = Callable[[Request, Callable[[Request], Coroutine[Any, Any, None]]], None]
"""Has a request answered by what waits for the cluster."""


class Traced(NamedTuple):
    """A request that was waited for: when it ended (since the epoch), what it was, and how it ended."""

    ended_s: float
    op: str
    node_id: int
    took_s: float
    outcome: str


class Trace:
    """The last requests that had to wait for the cluster."""

    def __init__(self) -> None:
        self._last: deque[Traced] = deque(maxlen=TRACED)

    def add(self, traced: Traced) -> None:
        """The oldest goes when there are too many."""
        self._last.append(traced)

    def text(self) -> bytes:
        """A line for each, the newest last."""
        lines = [f"{t.ended_s:.3f} {t.op} node={t.node_id} ms={t.took_s * 1e3:.1f} {t.outcome}\n" for t in self._last]
        return "".join(lines).encode()


class Virtual:
    """The directory and its files, by the same requests as any other."""

    def __init__(
        self,
        view: View,
        answers: Answers,
        texts: Mapping[str, Text],
        *,
        hints: Hints | None = None,
        later: Later | None = None,
    ) -> None:
        self._view, self._answers = view, answers
        self.hints, self._later = hints, later
        texts = texts if hints is None else {**texts, NAME: hints.text}
        self._names = list(texts)
        self._texts = list(texts.values())
        self._open: dict[int, bytes] = {}
        self._next = 1
        self._table: dict[int, Callable[[Request], None]] = {
            Op.LOOKUP: self._look_up,
            Op.GETATTR: self._getattr,
            Op.OPEN: self._opens,
            Op.READ: self._read,
            Op.RELEASE: self._release,
            Op.OPENDIR: lambda r: self._ok(r, replies.open_out(0, 0)),
            Op.RELEASEDIR: lambda r: self._ok(r, b""),
            Op.READDIR: self._readdir,
            Op.READDIRPLUS: self._readdir,
            Op.ACCESS: self._access,
            Op.LISTXATTR: lambda r: self._ok(r, replies.xattr_size(0) if requests.xattr_in(r)[0] == 0 else b""),
        }

        if hints is not None:
            self._table |= {Op.WRITE: self._write, Op.FLUSH: self._flush, Op.SETATTR: self._setattr}

    def __len__(self) -> int:
        return len(self._open) + (len(self.hints) if self.hints is not None else 0)

    def text_of(self, name: str) -> bytes:
        """What the text says now."""
        return self._texts[self._names.index(name)]()

    def handle(self, request: Request) -> None:
        """Answers a request for one of our node ids."""
        if request.opcode in (Op.FORGET, Op.BATCH_FORGET):
            return
        answer = self._table.get(request.opcode)
        if answer is not None:
            answer(request)
        elif request.opcode == Op.GETXATTR:
            raise Refused(errno.ENODATA, "no such attribute")
        else:
            raise Refused(errno.EROFS if request.opcode in layout.WRITING else errno.ENOSYS, "not here")

    def look_up(self, request: Request) -> bool:
        """LOOKUP in the root; False if the name is not ours."""
        body = request.body
        if not body or body[0] != _DOT or body != OWN_NAME:
            return False
        self._ok(request, self._entry(BASE))
        return True

    def _ok(self, request: Request, body: bytes) -> None:
        self._answers.ok(request.unique, body)

    def _attributes(self, node_id: int) -> Attributes:
        mode = stat.S_IFDIR | 0o555 if node_id == BASE else stat.S_IFREG | (0o666 if self._is_hints(node_id) else 0o444)
        return Attributes(node_id, 0, 0, mode & ~self._view.umask, self._view.uid, self._view.gid)

    def _entry(self, node_id: int) -> bytes:
        return replies.entry(node_id, self._attributes(node_id), entry_s=VALID_S, attr_s=VALID_S)

    def _look_up(self, request: Request) -> None:
        name = requests.name_in(request).decode(errors="replace")
        if request.node_id != BASE or name not in self._names:
            raise Refused(errno.ENOENT, "no such text")
        self._ok(request, self._entry(BASE + 1 + self._names.index(name)))

    def _getattr(self, request: Request) -> None:
        self._ok(request, replies.attr_out(self._attributes(request.node_id), VALID_S))

    def _text(self, node_id: int) -> bytes:
        index = node_id - BASE - 1
        if not 0 <= index < len(self._texts):
            raise Refused(errno.EISDIR if node_id == BASE else errno.ESTALE, "no text")
        return self._texts[index]()

    def _opens(self, request: Request) -> None:
        if requests.open_flags(request) & os.O_ACCMODE != os.O_RDONLY:
            self._opens_hints(request)
            return
        if len(self._open) >= TEXTS_MAX:
            raise Refused(errno.ENFILE, "too many texts are open")
        number, self._next = self._next, self._next + 1
        self._open[number] = self._text(request.node_id)
        if not self._answers.ok(request.unique, replies.open_out(number, _DIRECT)):
            del self._open[number]

    # -- hints

    def _is_hints(self, node_id: int) -> bool:
        return self.hints is not None and node_id == BASE + 1 + self._names.index(NAME)

    def _opens_hints(self, request: Request) -> None:
        if self.hints is None or not self._is_hints(request.node_id):
            raise Refused(errno.EROFS, "the mount is read-only")
        number, self._next = self._next, self._next + 1
        self.hints.open(number)
        if not self._answers.ok(request.unique, replies.open_out(number, int(layout.Open.DIRECT_IO))):
            self.hints.release(number)

    def _setattr(self, request: Request) -> None:
        """``O_TRUNC`` comes as a change of the size; nothing else can be changed."""
        valid = requests.setattr_valid(request)
        if not self._is_hints(request.node_id) or not valid & layout.SETS_SIZE or valid & ~layout.TRUNCATING:
            raise Refused(errno.EROFS, "the mount is read-only")
        self._getattr(request)

    def _write(self, request: Request) -> None:
        if self.hints is None or not self._is_hints(request.node_id):
            raise Refused(errno.EROFS, "the mount is read-only")
        handle, offset, data = requests.write_in(request)
        self._ok(request, replies.written(self.hints.write(handle, offset, data)))

    def _flush(self, request: Request) -> None:
        """Takes the order at once: the handle may be closed before anybody was told."""
        order = b"" if self.hints is None else self.hints.take(requests.flush_handle(request))
        if self._later is None or not order:
            self._ok(request, b"")
        else:
            self._later(request._replace(body=memoryview(b"")), partial(self._given, order))

    async def _given(self, order: bytes, request: Request) -> None:
        assert self.hints is not None
        await self.hints.tell(order)
        self._ok(request, b"")

    def _read(self, request: Request) -> None:
        wanted = requests.read_in(request)
        text = self._open.get(wanted.handle)
        if text is None:
            text = self._open[wanted.handle] = self._text(request.node_id)
        length = min(wanted.size, self._view.read_max)
        self._ok(request, text[wanted.offset : wanted.offset + length])

    def _release(self, request: Request) -> None:
        self._open.pop(requests.release_handle(request), None)
        if self.hints is not None:
            self.hints.release(requests.release_handle(request))
        self._ok(request, b"")

    def _access(self, request: Request) -> None:
        if requests.access_mask(request) & os.W_OK and not self._is_hints(request.node_id):
            raise Refused(errno.EROFS, "the mount is read-only")
        self._ok(request, b"")

    def _readdir(self, request: Request) -> None:
        wanted, plus = requests.read_in(request), request.opcode == Op.READDIRPLUS
        out, left = list[bytes](), wanted.size
        for index, name in enumerate([".", "..", *self._names]):
            if index < wanted.offset:
                continue
            node_id = BASE + max(0, index - 1)
            kind = replies.DIR_TYPE if index < 2 else replies.FILE_TYPE
            head = b"" if not plus else bytes(replies.ENTRY_BYTES) if index < 2 else self._entry(node_id)
            data = head + replies.dirent(node_id, index + 1, name.encode(), kind)
            left -= len(data)
            if left < 0:
                break
            out.append(data)
        self._ok(request, b"".join(out))
