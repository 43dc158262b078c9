"""What reads wait for, as spans of the machine's monotonic clock, from the doors of this process; off by default.

Three sorts of span. *Leaves* are what a door did: ``metadata`` (a master was asked), ``local`` (a file of this host),
``remote`` and ``ufs`` (a worker was asked, and had the bytes or fetched them from the under store: ``block``,
``member``), ``queueing`` (a call to the SDK, a pause before another try: counts where nothing else is under way),
``mount`` (a call to a file system of ours). A
*loader*, named ``by``, has states: ``read`` (it waits for ``path``), ``given`` (its sample is out and nothing more was
asked of it), ``work`` and ``stream`` (its life: what is neither of the others is work). And the training has ``wait``
and ``compute``, with ``epoch`` and ``count`` images.

A process records if it was told to, or was started by one that does (``FOREBAY_STEPS``, a folder). Forked children
write to files of their own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

VARIABLE = "FOREBAY_STEPS"
SPANS_MAX = 1_000_000
"""Spans of one file; what comes later is not recorded, and the report says that something is missing."""

RING = 4096
"""Spans that a ring remembers."""

SUFFIX = ".spans"
LEAVES = frozenset({"metadata", "local", "remote", "ufs", "queueing", "mount"})


@dataclass(frozen=True, slots=True)
class Span:
    """``began_s`` and ``ended_s`` by ``time.monotonic``, which all processes of a machine share."""

    kind: str
    began_s: float
    ended_s: float
    path: str = ""
    by: str = ""
    block: str = ""
    member: str = ""
    epoch: int = 0
    count: int = 0

    def line(self) -> bytes:
        """For a file."""
        return orjson.dumps(self, option=orjson.OPT_APPEND_NEWLINE)


Sink = Callable[[Span], None]


class SpanFile:
    """Spans as lines of a file in ``folder``, one for each process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid, self._fd, self._count = 0, -1, 0

    def add(self, span: Span) -> None:
        """Writes a line at once: a process may end without a word."""
        if self._pid != os.getpid():
            self._pid, self._count = os.getpid(), 0
            path = self._folder / f"{self._pid}{SUFFIX}"
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._count += 1
        if self._count <= SPANS_MAX:
            os.write(self._fd, span.line())

    def close(self) -> None:
        """Closes this process's file."""
        if self._pid == os.getpid():
            os.close(self._fd)
        self._pid = 0


class Ring:
    """The last spans of a process that others ask for them; each has a number that is never given twice."""

    def __init__(self, most: int = RING) -> None:
        self._numbers = itertools.count()
        self._last: deque[tuple[int, Span]] = deque(maxlen=most)

    def add(self, span: Span) -> None:
        """The oldest goes when there are too many."""
        self._last.append((next(self._numbers), span))

    def text(self, root: str = "/") -> bytes:
        """A line each: number, space, span. Paths are those below ``root``."""
        own = root.rstrip("/")
        shown = ((number, replace(span, path=span.path.removeprefix(own))) for number, span in self._last)
        return b"".join(b"%d %s" % (number, span.line()) for number, span in shown)


def _from_environment() -> Sink | None:
    folder = os.environ.get(VARIABLE)
    return SpanFile(Path(folder)).add if folder and os.path.isdir(folder) else None


_sink: Sink | None = _from_environment()


def record_to(sink: Sink | None) -> Sink | None:
    """Where this process's spans go from now on; ``None``: nowhere. Gives what it was."""
    global _sink  # one for a process, as its doors are
    before, _sink = _sink, sink
    return before


def is_on() -> bool:
    """Whether anything is recorded."""
    return _sink is not None


def note(
    kind: str,
    began_s: float,
    ended_s: float | None = None,
    *,
    path: str = "",
    by: str = "",
    block: str = "",
    member: str = "",
) -> None:
    """Records a span of a door or a loader that ends now, or did."""
    sink = _sink
    if sink is not None:
        sink(Span(kind, began_s, time.monotonic() if ended_s is None else ended_s, path, by, block, member))


def mark(kind: str, began_s: float, ended_s: float, *, epoch: int, count: int) -> None:
    """Records a span of the training."""
    sink = _sink
    if sink is not None:
        sink(Span(kind, began_s, ended_s, epoch=epoch, count=count))


@contextlib.contextmanager
def timed(kind: str, path: str = "", by: str = "") -> Iterator[None]:
    """Records what happens inside, however it ends."""
    began_s = time.monotonic()
    try:
        yield
    finally:
        note(kind, began_s, path=path, by=by)


_MOUNTS: set[str] = set()


def mount_used(root: str) -> None:
    """A mount of ours is read from: its gateway is asked as well."""
    _MOUNTS.add(root)


def mounts_used() -> tuple[str, ...]:
    """Those that this process named."""
    return tuple(sorted(_MOUNTS))


_loaders = itertools.count()


def loader_name() -> str:
    """A name for another loader of this process."""
    return f"{os.getpid()}-{next(_loaders)}"


class Turns:
    """The states of a loader that is asked for one sample after the other, by whoever asks in this process."""

    def __init__(self) -> None:
        self._name, self._pid, self._ended_s = "", 0, 0.0

    @contextlib.contextmanager
    def turn(self, path: str) -> Iterator[Callable[[], None]]:
        """One sample; what it gives is called when the bytes of ``path`` are here."""
        began_s = read_s = time.monotonic()
        if self._pid != os.getpid():
            self._name, self._pid, self._ended_s = loader_name(), os.getpid(), 0.0
        if self._ended_s:
            note("given", self._ended_s, began_s, by=self._name)

        def has_read() -> None:
            nonlocal read_s
            read_s = time.monotonic()
            note("read", began_s, read_s, path=path, by=self._name)

        try:
            yield has_read
        finally:
            self._ended_s = time.monotonic()
            note("work", read_s, self._ended_s, by=self._name)
