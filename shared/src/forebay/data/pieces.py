"""The input's buffers: pieces of shards, in order, read ahead by several streams into a few buffers used in turn.

All readers of a process share one byte budget (`Budget`); a reader that gets no second buffer goes on with one. A piece
is lent: its view is good until it is released, and its memory goes back to the kernel when the reader closes.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from forebay.data.places import ByteSource, Files
from forebay.data.tuning import Streams, taken
from forebay.errors import ForebayError, InvalidRequest, UfsUnavailable
from forebay.runtime.cgroup import memory_limit_bytes
from forebay.telemetry import waits

PIECE_BYTES = 4 << 20
BUFFERS = 8
"""Most pieces that one reader has in memory: what is read ahead, and what the training holds."""

STREAMS_MAX = 4
LATE_S = 0.001
"""A piece that is waited for longer counts as late."""

NOTED_S = 50e-6
"""A shorter wait is not worth a span: the piece was there."""

BUDGET_SHARE = 8
"""The budget is this part of the memory that the control group grants, at most ``BUDGET_MAX``."""

BUDGET_MAX = 512 << 20
CLOSE_S = 60.0


class Budget:
    """Bytes of buffers that all readers of a process hold together. Safe across threads.

    Invariant: ``held_bytes`` never exceeds ``most_bytes`` by more than one piece for each open reader.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        self.most_bytes = most_bytes or min(BUDGET_MAX, memory_limit_bytes() // BUDGET_SHARE)
        self.held_bytes = 0
        self._lock = threading.Lock()

    def take(self, size: int, *, is_first: bool) -> bool:
        """Whether ``size`` bytes more may be held; a reader's first buffer always may."""
        with self._lock:
            if not is_first and self.held_bytes + size > self.most_bytes:
                return False
            self.held_bytes += size
            return True

    def give(self, size: int) -> None:
        """Bytes that are held no more."""
        with self._lock:
            self.held_bytes -= size


BUDGET = Budget()
"""This process's."""


@dataclass(frozen=True)
class Section:
    """What is to be read: a shard, from ``offset`` to its end. ``number`` is its place in the order."""

    path: str
    offset: int = 0
    number: int = 0


class Piece:
    """``view`` of ``length`` bytes at ``offset`` of ``section.path``; ``is_last`` of the file. Release it."""

    def __init__(self, section: Section, offset: int, buffer: mmap.mmap, source: _Open) -> None:
        self.section, self.offset, self.buffer, self.source = section, offset, buffer, source
        self.length = min(len(buffer), source.size - offset)
        self.view = memoryview(buffer)[: self.length]
        self.is_last = offset + self.length >= source.size
        self.is_ready = False
        self.error: ForebayError | None = None


class _Open:
    """A file that pieces are read from; closed when the last one was."""

    def __init__(self, source: ByteSource) -> None:
        self.source, self.size = source, source.size
        self.users = 1


class Pieces:
    """``with Pieces(files, sections) as pieces: for piece in pieces: …; pieces.release(piece)``. For one consumer."""

    def __init__(
        self,
        files: Files,
        sections: Iterator[Section],
        *,
        piece_bytes: int = PIECE_BYTES,
        buffers: int = BUFFERS,
        streams_max: int = STREAMS_MAX,
        budget: Budget = BUDGET,
    ) -> None:
        self._files, self._sections = files, sections
        self._piece_bytes, self._buffers_max, self._budget = piece_bytes, buffers, budget
        self._planning = threading.Lock()
        self._changed = threading.Condition()
        self._order: deque[Piece | ForebayError] = deque()
        self._free: list[mmap.mmap] = []
        self._made = 0
        self._open: _Open | None = None
        self._at: tuple[Section, int] | None = None
        self._is_planned = self._is_closed = False
        self._threads: list[threading.Thread] = []
        self.streams = Streams(1, streams_max)
        self.waited_s = 0.0
        self.name = waits.loader_name()

    # -- the consumer's side

    def __enter__(self) -> Pieces:
        self._start_streams()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Piece]:
        while (piece := self._next()) is not None:
            yield piece

    def _next(self) -> Piece | None:
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(self._has_next)
            if not self._order:
                return None
            piece = self._order.popleft()
        waited_s = time.monotonic() - began
        self.waited_s += waited_s
        if isinstance(piece, ForebayError):
            raise piece
        if waited_s > NOTED_S:
            waits.note("read", began, began + waited_s, path=piece.section.path, by=self.name)
        if piece.error is not None:
            self.release(piece)
            raise piece.error
        with self._changed:
            self.streams = taken(self.streams, was_late=waited_s > LATE_S)
            self._changed.notify_all()
        self._start_streams()
        return piece

    def _has_next(self) -> bool:
        if self._order:
            first = self._order[0]
            return isinstance(first, ForebayError) or first.is_ready
        return self._is_planned

    def release(self, piece: Piece) -> None:
        """The piece's memory is used again; what its view shows is not the piece any more."""
        with self._changed:
            self._free.append(piece.buffer)
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the streams and gives all memory back."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(CLOSE_S)
        for piece in self._order:
            if isinstance(piece, Piece):
                self._free.append(piece.buffer)
        self._order.clear()
        if self._open is not None:
            self._done_with(self._open)
            self._open = None
        for buffer in self._free:
            with contextlib.suppress(BufferError):  # somebody still looks at it: it goes with the last view
                buffer.close()
        self._free.clear()
        self._budget.give(self._made * self._piece_bytes)
        self._made = 0

    # -- the streams' side

    def _start_streams(self) -> None:
        while len(self._threads) < self.streams.count and not self._is_planned:
            thread = threading.Thread(
                target=self._stream, args=(len(self._threads),), name="forebay-input", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _stream(self, number: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._is_planned or number < self.streams.count)
            with self._planning:
                piece = self._planned()
            if piece is None:
                return
            self._fill(piece)

    def _planned(self) -> Piece | None:
        """The next piece of the order, with a buffer; ``None`` when there is nothing left to read."""
        buffer = self._buffer()
        if buffer is None:
            return None
        try:
            piece = self._piece(buffer)
        except ForebayError as e:
            self._end(buffer, e)
            return None
        if piece is None:
            self._end(buffer, None)
            return None
        with self._changed:
            self._order.append(piece)
        return piece

    def _end(self, buffer: mmap.mmap, error: ForebayError | None) -> None:
        with self._changed:
            self._is_planned = True
            self._free.append(buffer)
            if error is not None:
                self._order.append(error)
            self._changed.notify_all()

    def _buffer(self) -> mmap.mmap | None:
        with self._changed:
            while not self._is_closed and not self._is_planned:
                if self._free:
                    return self._free.pop()
                has_room = self._made < self._buffers_max
                if has_room and self._budget.take(self._piece_bytes, is_first=self._made == 0):
                    self._made += 1
                    return mmap.mmap(-1, self._piece_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                self._changed.wait()
        return None

    def _piece(self, buffer: mmap.mmap) -> Piece | None:
        """Opens the next file where the last one is planned to its end. An empty file has no piece."""
        while self._at is None or self._open is None or self._at[1] >= self._open.size:
            if self._open is not None:
                self._done_with(self._open)
                self._open = None
            section = next(self._sections, None)
            if section is None:
                return None
            self._open = _Open(self._files.open(section.path))
            self._at = (section, section.offset)
            if section.offset > self._open.size:
                raise InvalidRequest(f"{section.path} has no byte {section.offset}", path=section.path)
        section, offset = self._at
        piece = Piece(section, offset, buffer, self._open)
        self._at = (section, offset + piece.length)
        with self._changed:
            self._open.users += 1
        return piece

    def _fill(self, piece: Piece) -> None:
        try:
            n = piece.source.source.read_into(piece.offset, piece.view)
            if n < piece.length:
                path = piece.section.path
                piece.error = UfsUnavailable(f"{path} ended early, at byte {piece.offset + n}", path=path)
        except ForebayError as e:
            piece.error = e
        self._done_with(piece.source)
        with self._changed:
            piece.is_ready = True
            if piece.error is not None:
                self._is_planned = True
            self._changed.notify_all()

    def _done_with(self, opened: _Open) -> None:
        with self._changed:
            opened.users -= 1
            is_last = opened.users == 0
        if is_last:
            opened.source.close()
