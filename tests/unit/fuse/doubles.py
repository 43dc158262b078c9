"""Doubles for the gateway: a namespace in memory with real block files, and a kernel that sends requests by hand."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from forebay.contracts import ChangesReply, Entry, Layout, ListReply, LookupReply
from forebay.contracts.identity import block_count, inode_number
from forebay.errors import NotFound
from forebay.telemetry import Telemetry, quiet
from forebay_fuse.gateway import Gateway
from forebay_fuse.inodes import InodeTable
from forebay_fuse.protocol import layout
from forebay_fuse.protocol.layout import Op
from forebay_fuse.splice import Piece
from forebay_fuse.view import View

BLOCK_SIZE = 8192
ACCESSED_S = 1_700_000_000.5
ROOT = Entry(name="", kind="dir", inode=2, mode=0o555, mtime_ns=0)


def entry_of(name: str, data: bytes) -> Entry:
    """A file whose version is its content."""
    version = blake2b(data, digest_size=16).hexdigest()
    found = Layout(key=name, size=len(data), fingerprint=version, version_id=version, block_size=BLOCK_SIZE)
    number = inode_number("/", name)
    return Entry(name=name, kind="file", inode=number, mode=0o754, mtime_ns=1, size=len(data), layout=found)


class FakeBlock:
    """A block file on this host."""

    tier = "MEM"

    def __init__(self, data: bytes) -> None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            self.fd = os.dup(file.fileno())
        self.length = len(data)
        self.counted = 0

        self.opens, self.is_open = 1, True

    def count(self, read_bytes: int) -> None:
        """Remembers."""
        self.counted += read_bytes

    def detach(self) -> None:
        """Closes the descriptor alone."""
        os.close(self.fd)
        self.fd = -1

    def again(self) -> None:
        """Remembers."""
        self.opens += 1

    def close(self) -> None:
        """Closes what is open."""
        if self.fd >= 0:
            self.detach()
        self.is_open = False


class FakeReader:
    """Reads from memory; ``gate`` holds reads back, ``error`` fails them, ``short`` cuts them."""

    def __init__(self, data: bytes, *, is_local: bool) -> None:
        self.size = len(data)
        self.data, self.is_local = data, is_local
        self.blocks: dict[int, FakeBlock] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.short = 0
        self.ahead = self.coming = False
        self.on_read: Callable[[], None] = lambda: None
        self.is_closed = False

    async def read_into(self, offset: int, buffer: memoryview) -> int:
        """The bytes, once the gate is open."""
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.on_read()
        n = max(0, min(len(buffer), self.size - offset) - self.short)
        buffer[:n] = self.data[offset : offset + n]
        return n

    def peek(self, offset: int, length: int) -> list[memoryview] | None:
        """The bytes in two pieces, if readahead is said to have them."""
        if not self.ahead:
            return None
        view = memoryview(self.data)[offset : offset + length]
        return [view[: length // 2], view[length // 2 :]]

    async def arrived(self, offset: int, length: int) -> list[memoryview] | None:
        """The bytes behind the gate, if they are said to be on their way."""
        if not self.coming:
            return None
        await self.gate.wait()
        return [memoryview(self.data)[offset : offset + length]]

    def local_block(self, index: int) -> FakeBlock | None:
        """A real file with the block's bytes."""
        if not self.is_local:
            return None
        if index not in self.blocks:
            self.blocks[index] = FakeBlock(self.data[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE])
        return self.blocks[index]

    def free(self) -> None:
        """Closes the block files."""
        self.is_closed = True
        while self.blocks:
            self.blocks.popitem()[1].close()


class FakeClient:
    """One flat directory. ``calls`` counts questions; ``gate`` holds answers back. ``whole`` are files whose one block
    is a file of this host; ``home_here`` and ``seals`` say that a read of any other makes it one."""

    def __init__(self, files: dict[str, bytes], *, is_local: bool = False, page: int = 10_000) -> None:
        self.files, self.is_local, self.page = files, is_local, page
        self.valid_s: float | None = 60.0
        self.calls: list[str] = []
        self.known: dict[str, LookupReply | NotFound] = {}
        self.forgotten: list[str] = []
        self.hinted: list[tuple[tuple[str, ...], int, int, int, bool]] = []
        self.readers: list[FakeReader] = []
        self.whole: set[str] = set()
        self.home_here, self.seals = False, True
        self.accessed: dict[str, float] = {}
        self.read_error: Exception | None = None
        self.opened: list[FakeBlock] = []
        self.error: Exception | None = None
        self.news: asyncio.Queue[ChangesReply | Exception] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.gate.set()

    def held(self, path: str) -> LookupReply | NotFound | None:
        """What was `known` to begin with."""
        return self.known.get(path)

    async def lookup(self, path: str) -> LookupReply:
        """A file of the directory, or the directory."""
        self.calls.append(f"lookup {path}")
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        name = path[1:]
        if name and name not in self.files:
            raise NotFound("no such name", valid_s=5.0)
        entry = entry_of(name, self.files[name]) if name else ROOT
        return LookupReply(entry=entry, mount_id="m", synced_at_s=0.0, valid_s=self.valid_s)

    async def list_page(self, path: str, page_token: str | None = None, limit: int = 10_000) -> ListReply:
        """Names after the token, ``page`` at a time."""
        self.calls.append(f"list {path} {page_token}")
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        names = sorted(n for n in self.files if page_token is None or n > page_token)
        chosen = names[: self.page]
        entries = tuple(entry_of(n, self.files[n]) for n in chosen)
        token = chosen[-1] if len(names) > len(chosen) else None
        return ListReply(entries=entries, mount_id="m", next_page_token=token, synced_at_s=0.0, valid_s=self.valid_s)

    async def changes(self, after: str | None) -> ChangesReply:
        """The next of what it was given to tell; waits when there is no more."""
        self.calls.append(f"changes {after}")
        told = await self.news.get()
        if isinstance(told, Exception):
            raise told
        return told

    def open_layout(self, mount_id: str, layout: Layout, path: str) -> FakeReader:
        """A reader of what is there now."""
        reader = FakeReader(self.files[path[1:]], is_local=self.is_local)
        self.readers.append(reader)
        reader.error = self.read_error
        if self.home_here and self.seals:
            reader.on_read = lambda: self.whole.add(path[1:])
        return reader

    def open_block(self, layout: Layout) -> FakeBlock | None:
        """A real file with the file's bytes."""
        if layout.key not in self.whole:
            return None
        self.opened.append(FakeBlock(self.files[layout.key]))
        return self.opened[-1]

    def is_home_here(self, layout: Layout) -> bool:
        """As it was told."""
        return self.home_here

    def homes(self, layout: Layout, limit: int) -> list[str]:
        """One worker has them all."""
        return ["worker-1"] * min(limit, block_count(layout.size, layout.block_size))

    def blocks_here(self, layout: Layout, limit: int) -> int:
        """All or none."""
        return block_count(layout.size, layout.block_size) if self.is_local else 0

    def note_open(self, path: str) -> None:
        """Now, by a clock of its own."""
        self.accessed[path] = ACCESSED_S

    def accessed_s(self, path: str) -> float | None:
        """As it was told."""
        return self.accessed.get(path)

    async def hint(
        self, files: Sequence[str], *, epoch: int = 0, seed: int = 0, rank: int = 0, is_next: bool = False
    ) -> int:
        """Remembers; of what is not there it says so."""
        missing = [path for path in files if path[1:] not in self.files]
        if missing:
            raise NotFound(f"not there: {missing}")
        self.hinted.append((tuple(files), epoch, seed, rank, is_next))
        return len(files)

    def forget(self, path: str) -> None:
        """Remembers."""
        self.forgotten.append(path)


@dataclass(frozen=True)
class Reply:
    """A decoded reply; ``errno`` is positive or 0."""

    unique: int
    errno: int
    body: bytes


@dataclass
class FakeSink:
    """Collects replies by request, as the kernel would."""

    replies: dict[int, Reply] = field(default_factory=dict)
    notices: list[bytes] = field(default_factory=list)
    elsewhere: list[int] = field(default_factory=list)
    takes: bool = True
    splices: bool = True

    def reply(self, parts: Sequence[bytes | bytearray | memoryview]) -> bool:
        """Decodes one; a second reply to one request is a bug."""
        data = b"".join(bytes(part) for part in parts)
        length, error, unique = layout.OUT_HEADER.unpack_from(data)
        assert length == len(data)
        assert unique not in self.replies
        self.replies[unique] = Reply(unique, -error, data[layout.OUT_HEADER.size :])
        return self.takes

    def reply_files(self, header: bytes, pieces: Sequence[Piece]) -> bool:
        """Reads the pieces as the kernel would; refuses when it is told to."""
        if not self.splices:
            return False
        return self.reply([header, *(os.pread(fd, length, offset) for fd, offset, length in pieces)])

    def answered(self, unique: int) -> None:
        """Remembers what somebody else has answered."""
        self.elsewhere.append(unique)

    def is_awaited(self, unique: int) -> bool:
        """Whether nobody has answered it yet."""
        return unique not in self.replies

    def notify(self, message: bytes) -> None:
        """Keeps it."""
        self.notices.append(message)

    async def notice_room(self) -> None:
        """There is always room."""


class FakeBackings:
    """Backing files as the kernel keeps them; ``error`` is an errno that refuses them."""

    def __init__(self) -> None:
        self.files: dict[int, int] = {}
        self.error = 0
        self._next = 1

    def open(self, fd: int) -> int:
        """Keeps a reference of its own."""
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.files[self._next] = os.dup(fd)
        self._next += 1
        return self._next - 1

    def close(self, backing_id: int) -> None:
        """Lets it go; a second time is a bug."""
        os.close(self.files.pop(backing_id))


class Kernel:
    """Plays the kernel: sends requests to a gateway and waits for replies. Ends as a test must leave things."""

    def __init__(self, client: FakeClient, view: View | None = None, *, limit: int = 1000, waits_max: int = 64) -> None:
        self.telemetry: Telemetry = quiet()
        self.client, self.sink = client, FakeSink()
        self.inodes = InodeTable(ROOT, "/", None, limit=limit, good_until_s=None)
        self.gateway = Gateway(client, view or View(), self.inodes, self.telemetry, waits_max=waits_max)
        self.backings = FakeBackings()
        self.gateway.attach(self.sink, self.backings)
        self._unique = 0

    async def __aenter__(self) -> Kernel:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.inodes.validate()
        self.gateway.waits.validate()
        await self.gateway.close()
        assert not self.gateway.waits
        assert not self.gateway.handles
        assert not self.gateway.opening.modes
        assert not self.backings.files
        assert not any(block.is_open for block in self.client.opened)

    def send(self, op: int, body: bytes = b"", node_id: int = 1) -> int:
        """Sends a request; its number."""
        self._unique += 2
        head = layout.IN_HEADER.pack(layout.IN_HEADER.size + len(body), op, self._unique, node_id, 0, 0, 0, 0, 0)
        self.gateway.handle(memoryview(bytearray(head + body)))
        return self._unique

    async def reply(self, unique: int) -> Reply:
        """The reply to a request; the test's watchdog bounds the wait."""
        while unique not in self.sink.replies:
            await asyncio.sleep(0)
        return self.sink.replies[unique]

    async def idle(self) -> None:
        """Waits until nothing waits."""
        while self.gateway.waits:
            await asyncio.sleep(0)

    async def opendir(self) -> int:
        """A handle of the root."""
        reply = await self.ask(Op.OPENDIR, bytes(8))
        handle: int = layout.OPEN_OUT.unpack_from(reply.body)[0]
        return handle

    async def ask(self, op: int, body: bytes = b"", node_id: int = 1) -> Reply:
        """Sends and waits."""
        return await self.reply(self.send(op, body, node_id))

    async def lookup(self, name: str) -> int:
        """The node id of a name in the root; 0 when it is missing."""
        reply = await self.ask(Op.LOOKUP, name.encode() + b"\0")
        assert reply.errno == 0, reply
        node_id: int = layout.ENTRY.unpack_from(reply.body)[0]
        return node_id

    async def init(self, flags: int = (1 << 64) - 1) -> tuple[int, ...]:
        """Agrees on ``flags`` with the gateway: ``INIT_OUT`` of the reply."""
        body = layout.INIT_IN.pack(7, 45, 1 << 20, flags & 0xFFFFFFFF) + layout.INIT_FLAGS2.pack(flags >> 32)
        return layout.INIT_OUT.unpack((await self.ask(Op.INIT, body)).body)

    async def open(self, name: str) -> int:
        """A handle of a file in the root."""
        return (await self.opened(name))[0]

    async def opened(self, name: str) -> tuple[int, int, int]:
        """Handle, flags and backing id of a file in the root, opened."""
        node_id = await self.lookup(name)
        reply = await self.ask(Op.OPEN, layout.OPEN_IN.pack(os.O_RDONLY, 0), node_id)
        assert reply.errno == 0, reply
        handle, flags, backing_id = layout.OPEN_OUT.unpack_from(reply.body)
        return handle, flags, backing_id

    def read(self, handle: int, offset: int, size: int, op: int = Op.READ) -> int:
        """Sends READ, READDIR or READDIRPLUS; its number."""
        return self.send(op, layout.READ_IN.pack(handle, offset, size, 0, 0, 0, 0))

    async def release(self, handle: int, op: int = Op.RELEASE) -> Reply:
        """Closes a handle."""
        return await self.ask(op, layout.RELEASE_IN.pack(handle, 0, 0, 0))

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        total = 0.0
        for line in self.telemetry.metrics.render().decode().splitlines():
            if line.startswith((f"{name} ", f"{name}{{")):
                total += float(line.rpartition(" ")[2])
        return total


def names_in(body: bytes, *, plus: bool) -> list[tuple[str, int, int]]:
    """(name, next offset, node id) of each entry of a directory reply."""
    at, found = 0, []
    while at < len(body):
        node_id = 0
        if plus:
            node_id = layout.ENTRY.unpack_from(body, at)[0]
            at += layout.ENTRY.size + layout.ATTR.size
        _, offset, length, _ = layout.DIRENT.unpack_from(body, at)
        name = body[at + layout.DIRENT.size : at + layout.DIRENT.size + length].decode()
        at += (layout.DIRENT.size + length + 7) // 8 * 8
        found.append((name, offset, node_id))
    return found
