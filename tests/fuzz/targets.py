"""What the coverage-guided fuzzer runs: bytes in, and nothing but an answer or a refusal out.

``protocol``: the bytes are one request as the kernel would hand it over; every reader of bodies looks at it.
``session``: the bytes are a script of requests to a gateway (`pieces`); each is answered once, nothing is an exception
of ours, and the session lives on.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import Callable, Iterator

from forebay_fuse.protocol import layout, requests
from forebay_fuse.protocol.layout import Op
from forebay_fuse.protocol.requests import ProtocolError
from forebay_fuse.view import BASE
from tests.unit.fuse.doubles import FakeClient, Kernel

FILES = {"a": b"data" * 5000, "b": b"", "ü": bytes(range(256))}
REQUESTS_MAX = 40
BODY_MAX = 200
NODES = (*range(6), *range(BASE, BASE + 8))
"""What a script may name: the root, what it was told of, numbers of nothing, and ``.forebay`` with its texts."""

HINTS = NODES.index(BASE + 3)
"""The text that is written, behind ``stats`` and ``trace``."""


def readers() -> tuple[Callable[[requests.Request], object], ...]:
    """Every function that reads a request's body."""
    found = inspect.getmembers(requests, inspect.isfunction)
    return tuple(f for name, f in found if name[0] != "_" and next(iter(inspect.signature(f).parameters)) == "request")


READERS = readers()


def protocol(data: bytes) -> None:
    """Decodes, or refuses by `ProtocolError` that names the request."""
    try:
        request = requests.decode(memoryview(data))
    except ProtocolError:
        return
    for read in READERS:
        try:
            read(request)
        except ProtocolError as e:
            if e.unique != request.unique:
                raise AssertionError(f"refused as request {e.unique}, it was {request.unique}") from e


def pieces(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(operation, node id, body) of each request of a script: a byte each for operation, which of `NODES`, length."""
    at = 0
    for _ in range(REQUESTS_MAX):
        if at + 3 > len(data):
            return
        operation, node, length = data[at : at + 3]
        yield operation, NODES[node % len(NODES)], data[at + 3 : at + 3 + min(length, BODY_MAX)]
        at += 3 + min(length, BODY_MAX)


def script(*wanted: tuple[int, int, bytes]) -> bytes:
    """The bytes of which `pieces` makes these requests; for seeds."""
    return b"".join(bytes((op, node, len(body))) + body for op, node, body in wanted)


class Session:
    """One event loop for all scripts: a new one for each would take most of the time."""

    def __init__(self, client: Callable[[bool], FakeClient] = lambda local: FakeClient(FILES, is_local=local)) -> None:
        self._client = client
        self._runner = asyncio.Runner()
        self._unexpected = Unexpected()

    def __call__(self, data: bytes) -> None:
        """Runs one script."""
        self._runner.run(self._run(data))

    async def _run(self, data: bytes) -> None:
        local = bool(data and data[0] & 1)
        async with Kernel(self._client(local)) as kernel:
            sent = [(op, kernel.send(op, body, node)) for op, node, body in pieces(data[1:])]
            await kernel.idle()
            for op, unique in sent:
                assert (unique in kernel.sink.replies) == (op not in layout.SILENT)
            assert not self._unexpected.lines, self._unexpected.lines
            assert await kernel.lookup("a")

    def close(self) -> None:
        """The end of the loop."""
        self._runner.close()
        logging.getLogger("forebay.fuse").removeHandler(self._unexpected)
        logging.getLogger("forebay.fuse").propagate = True


class Unexpected(logging.Handler):
    """Keeps what the gateway logs of exceptions that nobody expected; a program would see EIO, and nobody the bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []
        logger = logging.getLogger("forebay.fuse")
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        line = record.getMessage()
        if "request_failed" in line:
            self.lines.append(line)


TARGETS: dict[str, Callable[[], Callable[[bytes], None]]] = {"protocol": lambda: protocol, "session": Session}


def seeds() -> dict[str, list[bytes]]:
    """One well-formed example of each request, and a life of a file."""
    read = layout.READ_IN.pack(1, 0, 4096, 0, 0, 0, 0)
    bodies = {
        Op.LOOKUP: b"a\0", Op.FORGET: layout.FORGET_IN.pack(1), Op.GETATTR: bytes(16), Op.OPEN: bytes(8),
        Op.READ: read, Op.RELEASE: layout.RELEASE_IN.pack(1, 0, 0, 0), Op.OPENDIR: bytes(8), Op.READDIR: read,
        Op.READDIRPLUS: read, Op.RELEASEDIR: layout.RELEASE_IN.pack(1, 0, 0, 0), Op.STATFS: b"",
        Op.ACCESS: layout.ACCESS_IN.pack(4, 0), Op.INTERRUPT: layout.INTERRUPT_IN.pack(2),
        Op.INIT: layout.INIT_IN.pack(7, 45, 1 << 17, (1 << 32) - 1) + layout.INIT_FLAGS2.pack(0xFF) + bytes(44),
        Op.BATCH_FORGET: layout.BATCH_FORGET_IN.pack(1, 0) + layout.FORGET_ONE.pack(2, 1),
        Op.GETXATTR: layout.XATTR_IN.pack(64, 0) + b"user.forebay.cached\0", Op.LISTXATTR: layout.XATTR_IN.pack(64, 0),
        Op.WRITE: layout.WRITE_IN.pack(1, 0, 3, 0, 0, 0, 0) + b"/a\n",
        Op.SETATTR: layout.SETATTR_VALID.pack(8, 0) + bytes(80), Op.FLUSH: layout.FLUSH_IN.pack(1, 0, 0, 0),
    }  # fmt: skip
    header = layout.IN_HEADER
    single = [header.pack(header.size + len(b), op, 2, 1, 0, 0, 0, 0, 0) + b for op, b in bodies.items()]
    life = [(int(op), 1, bodies[op]) for op in (Op.INIT, Op.LOOKUP, Op.OPENDIR, Op.READDIRPLUS)]
    file = [(int(op), 2, bodies[op]) for op in (Op.GETATTR, Op.GETXATTR, Op.OPEN, Op.READ, Op.RELEASE, Op.FORGET)]
    texts = [(int(op), node, bodies[op]) for node in range(6, len(NODES)) for op in (Op.GETATTR, Op.OPEN, Op.READ)]
    written = (Op.SETATTR, Op.WRITE, Op.FLUSH, Op.RELEASE)
    order = [
        (int(Op.OPEN), HINTS, layout.OPEN_IN.pack(os.O_WRONLY, 0)),
        *((int(op), HINTS, bodies[op]) for op in written),
    ]
    lives = [bytes((local,)) + script(*life, *file, (int(Op.DESTROY), 1, b"")) for local in (0, 1)]
    lives.append(bytes(1) + script(*life, (int(Op.LOOKUP), 1, b".forebay\0"), *order, *texts))
    return {"protocol": single, "session": lives}
