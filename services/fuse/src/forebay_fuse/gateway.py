"""The file system: each request answered from the SDK. Inline where nothing has to be waited for, else by a task.

Policy lives elsewhere: where bytes come from is the SDK's business, what may be cached is the master's word.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from forebay.client import Client
from forebay.contracts import Entry
from forebay.errors import ForebayError, NotFound, StaleVersion
from forebay.runtime import Supervisor, logs
from forebay.telemetry import Telemetry
from forebay_fuse.device import Device
from forebay_fuse.errno_door import errno_of
from forebay_fuse.handles import HandleTable, OpenDir, OpenFile
from forebay_fuse.inodes import Inode, InodeTable
from forebay_fuse.protocol import layout, replies, requests
from forebay_fuse.protocol.layout import Op
from forebay_fuse.protocol.replies import Attributes
from forebay_fuse.protocol.requests import ProtocolError, Request

PENDING_MAX = 4096
"""Requests that wait for the cluster; more are answered EAGAIN."""

DOT_ENTRIES = 2
FOREVER_S = 1e9
LOG = logs.get(__name__)


@dataclass(frozen=True)
class View:
    """How the mount looks and what the kernel may keep."""

    uid: int = 0
    gid: int = 0
    umask: int = 0
    entry_timeout_s: float = 3600.0
    attr_timeout_s: float = 3600.0
    negative_timeout_s: float = 1.0
    kernel_cache: bool = True
    direct_io: bool = False
    max_pages: int = 256
    max_background: int = 64

    def attributes(self, entry: Entry) -> Attributes:
        """``stat`` of an entry."""
        kind = stat.S_IFDIR if entry.kind == "dir" else stat.S_IFREG
        mode = entry.mode & ~self.umask & ~0o222
        return Attributes(entry.inode, entry.size, entry.mtime_ns, kind | mode, self.uid, self.gid)

    def open_flags(self) -> int:
        """Flags of the reply to OPEN. A node id names one version, so its pages stay good for ever."""
        flags = layout.Open.NOFLUSH
        if self.direct_io:
            flags |= layout.Open.DIRECT_IO
        elif self.kernel_cache:
            flags |= layout.Open.KEEP_CACHE
        return int(flags)


def keep_s(switch_s: float, valid_s: float | None) -> float:
    """How long the kernel may keep something: the switch, but never beyond the master's word."""
    return switch_s if valid_s is None else min(switch_s, valid_s)


class Gateway:
    """One session's state and answers. ``attach`` a device, then feed it by ``handle``."""

    def __init__(self, client: Client, view: View, root: InodeTable, spawner: Supervisor, telemetry: Telemetry) -> None:
        self._client, self._view, self.inodes, self._spawner = client, view, root, spawner
        self._telemetry = telemetry
        self.handles = HandleTable()
        self.pending = 0
        self._device: Device | None = None
        self._buffers: list[bytearray] = []
        metrics = telemetry.metrics
        self._ops = metrics.counter("forebay_fuse_requests_total", "requests of the kernel", ("op",))
        self._read = metrics.counter("forebay_fuse_read_bytes_total", "bytes read, by where they were", ("source",))
        self._errors = metrics.counter("forebay_fuse_errors_total", "errors given to programs", ("errno",))
        metrics.observed("forebay_fuse_inodes", "inodes the kernel knows", lambda: len(self.inodes))
        metrics.observed("forebay_fuse_handles", "open files and directories", lambda: len(self.handles))
        metrics.observed("forebay_fuse_pending", "requests that wait for the cluster", lambda: self.pending)
        self._inline: dict[int, Callable[[Request], None]] = {
            Op.READ: self._on_read,
            Op.GETATTR: self._on_getattr,
            Op.OPEN: self._on_open,
            Op.RELEASE: self._on_release,
            Op.OPENDIR: self._on_opendir,
            Op.RELEASEDIR: self._on_release,
            Op.FORGET: self._on_forget,
            Op.BATCH_FORGET: self._on_forget,
            Op.STATFS: self._on_statfs,
            Op.ACCESS: self._on_access,
            Op.INTERRUPT: lambda _: None,
            Op.FLUSH: lambda r: self._fail(r.unique, errno.ENOSYS),
            Op.DESTROY: lambda r: self._ok(r.unique),
            Op.INIT: self._on_init,
        }
        self._waiting: dict[int, Callable[[Request], Coroutine[Any, Any, None]]] = {
            Op.LOOKUP: self._lookup,
            Op.READDIR: self._readdir,
            Op.READDIRPLUS: self._readdir,
        }

    def attach(self, device: Device) -> None:
        """Where replies go."""
        self._device = device

    async def close(self) -> None:
        """Closes every open file."""
        for number in list(self.handles.all()):
            handle = self.handles.remove(number)
            if isinstance(handle, OpenFile):
                handle.unmap()
                await handle.reader.close()

    def handle(self, data: memoryview) -> None:
        """Answers one request. Nothing it does can end the session."""
        try:
            request = requests.decode(data)
        except ProtocolError as e:
            LOG.error("malformed_request", error=str(e))
            if e.unique:
                self._fail(e.unique, errno.EIO)
            return
        try:
            self._dispatch(request)
        except (ForebayError, ProtocolError, OSError) as e:
            self._refuse(request.opcode, request.unique, e)
        except Exception as e:  # noqa: BLE001  # one request fails, the mount lives on
            self._refuse(request.opcode, request.unique, e)

    def _dispatch(self, request: Request) -> None:
        opcode = request.opcode
        self._ops.add(1, Op(opcode).name if opcode in Op._value2member_map_ else "unknown")
        inline = self._inline.get(opcode)
        if inline is not None:
            inline(request)
        elif (waiting := self._waiting.get(opcode)) is not None:
            own = Request(opcode, request.unique, request.node_id, request.uid, request.gid, request.pid,
                          memoryview(bytes(request.body)))  # fmt: skip
            self._later(opcode, request.unique, waiting(own))
        else:
            self._fail(request.unique, errno.EROFS if opcode in layout.WRITING else errno.ENOSYS)

    def _later(self, opcode: int, unique: int, work: Coroutine[Any, Any, None]) -> None:
        if self.pending >= PENDING_MAX:
            work.close()
            self._fail(unique, errno.EAGAIN)
            return
        self.pending += 1
        self._spawner.spawn("fuse-request", self._finish(opcode, unique, work))

    async def _finish(self, opcode: int, unique: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            with self._telemetry.tracer.start(f"fuse.{Op(opcode).name.lower()}", kind="server", root=True):
                await work
        except asyncio.CancelledError:
            self._fail(unique, errno.EINTR)
            raise
        except (ForebayError, ProtocolError, OSError) as e:
            self._refuse(opcode, unique, e)
        except Exception as e:  # noqa: BLE001  # one request fails, the mount lives on
            self._refuse(opcode, unique, e)
        finally:
            self.pending -= 1

    # -- replies

    def _send(self, *parts: bytes | bytearray | memoryview) -> None:
        if self._device is not None:
            self._device.reply(parts)

    def _ok(self, unique: int, body: bytes = b"") -> None:
        self._send(replies.ok(unique, body))

    def _fail(self, unique: int, number: int) -> None:
        self._errors.add(1, errno.errorcode.get(number, str(number)))
        self._send(replies.error(unique, number))

    def _refuse(self, opcode: int, unique: int, error: Exception) -> None:
        number = error.errno or errno.EIO if isinstance(error, OSError) else errno_of(error)
        if number not in (errno.ENOENT, errno.ESTALE):
            expected = isinstance(error, ForebayError)
            log = LOG.warning if expected else LOG.error
            log("request_failed", op=opcode, errno=errno.errorcode.get(number), error=repr(error),
                exc_info=not expected)  # fmt: skip
        if opcode not in layout.SILENT:
            self._fail(unique, number)

    def _inode(self, node_id: int) -> Inode:
        inode = self.inodes.get(node_id)
        if inode is None:
            raise OSError(errno.ESTALE, "the inode was forgotten")
        return inode

    # -- session

    def _on_init(self, request: Request) -> None:
        offered = requests.init_in(request)
        if offered.major < layout.MAJOR or (offered.major == layout.MAJOR and offered.minor < layout.MINOR_LEAST):
            LOG.error("kernel_too_old", major=offered.major, minor=offered.minor)
            self._fail(request.unique, errno.EPROTO)
            return
        wanted = (
            layout.Init.ASYNC_READ | layout.Init.DO_READDIRPLUS | layout.Init.ASYNC_DIO | layout.Init.PARALLEL_DIROPS
            | layout.Init.ABORT_ERROR | layout.Init.MAX_PAGES | layout.Init.CACHE_SYMLINKS
            | layout.Init.EXPLICIT_INVAL_DATA | layout.Init.INIT_EXT | layout.Init.HAS_RESEND
        )  # fmt: skip
        flags = int(wanted) & offered.flags
        LOG.info("session", kernel=f"{offered.major}.{offered.minor}", flags=hex(flags))
        self._ok(
            request.unique,
            replies.init(
                minor=min(offered.minor, layout.MINOR),
                max_readahead=offered.max_readahead,
                flags=flags,
                max_background=self._view.max_background,
                max_write=4096,
                max_pages=self._view.max_pages,
            ),
        )

    def _on_statfs(self, request: Request) -> None:
        self._ok(request.unique, replies.statfs(blocks=1 << 40, block_size=4096, files=len(self.inodes), name_max=255))

    def _on_access(self, request: Request) -> None:
        if requests.access_mask(request) & os.W_OK:
            self._fail(request.unique, errno.EROFS)
        else:
            self._ok(request.unique)

    # -- names

    async def _lookup(self, request: Request) -> None:
        parent = self._inode(request.node_id)
        name = requests.name_in(request)
        try:
            text = name.decode()
        except UnicodeDecodeError:
            self._no_such_name(request.unique, self._view.negative_timeout_s)
            return
        path = child(parent.path, text)
        try:
            reply = await self._client.lookup(path)
        except NotFound as e:
            valid_s = e.details.get("valid_s")
            self._no_such_name(request.unique, float(valid_s) if isinstance(valid_s, (int, float)) else 0.0)
            return
        inode = self.inodes.look_up(path, reply.entry, reply.mount_id)
        self._ok(request.unique, self._entry(inode, reply.valid_s))

    def _no_such_name(self, unique: int, valid_s: float) -> None:
        negative_s = min(self._view.negative_timeout_s, valid_s)
        if negative_s <= 0:
            self._send(replies.error(unique, errno.ENOENT))
        else:
            self._ok(unique, replies.negative(negative_s))

    def _entry(self, inode: Inode, valid_s: float | None) -> bytes:
        view = self._view
        return replies.entry(
            inode.node_id,
            view.attributes(inode.entry),
            entry_s=keep_s(view.entry_timeout_s, valid_s),
            attr_s=self._attr_s(inode, valid_s),
        )

    def _attr_s(self, inode: Inode, valid_s: float | None) -> float:
        # The attributes of a file's version never change; those of a directory may.
        return keep_s(self._view.attr_timeout_s, valid_s) if inode.is_dir else self._view.attr_timeout_s

    def _on_getattr(self, request: Request) -> None:
        inode = self._inode(request.node_id)
        self._ok(request.unique, replies.attr_out(self._view.attributes(inode.entry), self._attr_s(inode, 1.0)))

    def _on_forget(self, request: Request) -> None:
        for node_id, lookups in requests.forgets(request):
            self.inodes.forget(node_id, lookups)

    # -- directories

    def _on_opendir(self, request: Request) -> None:
        handle = self.handles.add(OpenDir(self._inode(request.node_id)))
        self._ok(request.unique, replies.open_out(handle, 0))

    async def _readdir(self, request: Request) -> None:
        wanted = requests.read_in(request)
        directory = self.handles.directory(wanted.handle)
        if directory is None:
            raise OSError(errno.EBADF, "no such directory handle")
        plus = request.opcode == Op.READDIRPLUS
        out: list[bytes] = []
        left, index = wanted.size, wanted.offset
        if wanted.offset == 0:
            directory.entries.clear()
            directory.token, directory.done = None, False
        while True:
            await directory.fill(self._client, index - DOT_ENTRIES + 1)
            piece = self._dirent(directory, index, left, plus=plus)
            if piece is None:
                break
            out.append(piece)
            left -= len(piece)
            index += 1
        self._ok(request.unique, b"".join(out))

    def _dirent(self, directory: OpenDir, index: int, left: int, *, plus: bool) -> bytes | None:
        """The entry at ``index`` if it exists and fits; only then does the kernel hold a lookup of it."""
        if index < DOT_ENTRIES:
            name, inode_number, kind = b"." * (index + 1), directory.inode.entry.inode, replies.DIR_TYPE
            entry = None
        elif index - DOT_ENTRIES < len(directory.entries):
            entry = directory.entries[index - DOT_ENTRIES]
            name, inode_number = os.fsencode(entry.name), entry.inode
            kind = replies.DIR_TYPE if entry.kind == "dir" else replies.FILE_TYPE
        else:
            return None
        tail = replies.dirent(inode_number, index + 1, name, kind)
        if not plus:
            return tail if len(tail) <= left else None
        if layout.ENTRY.size + layout.ATTR.size + len(tail) > left:
            return None
        if entry is None:
            return bytes(layout.ENTRY.size + layout.ATTR.size) + tail
        path = child(directory.inode.path, entry.name)
        inode = self.inodes.look_up(path, entry, directory.mount_id)
        return self._entry(inode, directory.left_s()) + tail

    # -- files

    def _on_open(self, request: Request) -> None:
        if requests.open_flags(request) & os.O_ACCMODE != os.O_RDONLY:
            self._fail(request.unique, errno.EROFS)
            return
        inode = self._inode(request.node_id)
        found = inode.entry.layout
        if found is None or inode.mount_id is None:
            self._fail(request.unique, errno.EISDIR)
            return
        reader = self._client.open_layout(inode.mount_id, found, inode.path)
        handle = self.handles.add(OpenFile(inode, reader, found.block_size))
        self._ok(request.unique, replies.open_out(handle, self._view.open_flags()))

    def _on_release(self, request: Request) -> None:
        handle = self.handles.remove(requests.release_handle(request))
        if isinstance(handle, OpenFile):
            handle.unmap()
            self._later(Op.RELEASE, request.unique, self._close(request.unique, handle))
        else:
            self._ok(request.unique)

    async def _close(self, unique: int, handle: OpenFile) -> None:
        await handle.reader.close()
        self._ok(unique)

    def _on_read(self, request: Request) -> None:
        wanted = requests.read_in(request)
        file = self.handles.file(wanted.handle)
        if file is None:
            raise OSError(errno.EBADF, "no such file handle")
        length = max(0, min(wanted.size, file.reader.size - wanted.offset))
        if not length:
            self._ok(request.unique)
            return
        local = file.local(wanted.offset, length)
        if local is not None:
            self._read.add(length, "local")
            self._send(replies.header(request.unique, length), local)
            return
        views = file.reader.peek(wanted.offset, length)
        if views is not None:
            self._read.add(length, "readahead")
            self._send(replies.header(request.unique, length), *views)
            return
        self._later(Op.READ, request.unique, self._read_remote(request.unique, file, wanted.offset, length))

    async def _read_remote(self, unique: int, file: OpenFile, offset: int, length: int) -> None:
        buffer = self._buffers.pop() if self._buffers else bytearray(self._view.max_pages * 4096)
        view = memoryview(buffer)[:length]
        try:
            n = await file.reader.read_into(offset, view)
            self._read.add(n, "remote")
            self._send(replies.header(unique, n), view[:n])
        except StaleVersion:
            self._forget_name(file.inode)
            raise
        finally:
            view.release()
            if len(self._buffers) < self._view.max_background:
                self._buffers.append(buffer)

    def _forget_name(self, inode: Inode) -> None:
        """The next lookup of the path asks the master, in the SDK and in the kernel; this inode keeps its version."""
        self._client.forget(inode.path)
        directory, _, name = inode.path.rpartition("/")
        parent = self.inodes.find(directory or "/")
        if parent is not None and self._device is not None:
            message = replies.invalidate_entry(parent.node_id, os.fsencode(name))
            asyncio.get_running_loop().run_in_executor(None, self._device.notify, message)


def child(directory: str, name: str) -> str:
    """The path of ``name`` in ``directory``."""
    return f"/{name}" if directory == "/" else f"{directory}/{name}"
