"""The samples of one worker's shards, in the order of an epoch, from any position on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from forebay.data import tar, tfrecord
from forebay.data.order import Part, shard_order, share, window_order
from forebay.data.pieces import Piece, Pieces, Section
from forebay.data.places import Files
from forebay.errors import InvalidRequest
from forebay.telemetry import waits

GIVEN_S = 0.5e-3
"""A sample that is out for less counts as work of the loader."""

NEXT_FROM = 0.75
"""The share of its shards after which a reader tells what it will read in the next epoch; with the last at the
latest."""

Format = Literal["tfrecord", "tar"]


@dataclass(frozen=True)
class StreamOptions:
    """How shards are read. ``window``: records that are shuffled among each other (1: as they stand in the shard);
    ``checks``: whether checksums of TFRecords are looked at;
    ``hints``: whether the order of shards is told to the workers; ``epochs``: how many the job has, so that the order
    of the next epoch is told before this one ends (``None``: not known, it is told from the second one on);
    ``piece_bytes``, ``buffers``, ``streams_max``: see
    ``Pieces`` (``None``: as the place is best read)."""

    format: Format = "tfrecord"
    seed: int = 0
    is_shuffled: bool = True
    window: int = 256
    checks: bool = True
    hints: bool = True
    epochs: int | None = None
    piece_bytes: int | None = None
    buffers: int | None = None
    streams_max: int | None = None

    def __post_init__(self) -> None:
        if self.format not in ("tfrecord", "tar"):
            raise InvalidRequest(f"format is tfrecord or tar, not {self.format!r}")
        for name in ("window", "epochs", "piece_bytes", "buffers", "streams_max"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequest(f"{name} must be at least 1")


@dataclass(frozen=True)
class Position:
    """Where reading goes on: ``shard`` is the place in this worker's order, ``offset`` and ``record`` where a window
    begins, ``done`` how many samples of it were given out; ``samples``: of this epoch in all."""

    epoch: int = 0
    shard: int = 0
    offset: int = 0
    record: int = 0
    done: int = 0
    samples: int = 0

    def to_dict(self) -> dict[str, int]:
        """For checkpoints."""
        return asdict(self)

    @staticmethod
    def of(given: dict[str, Any]) -> Position:
        """What ``to_dict`` gave.

        Raises:
            InvalidRequest: it is something else.
        """
        try:
            return Position(**{name: int(value) for name, value in given.items()})
        except (TypeError, ValueError) as e:
            raise InvalidRequest(f"this is no position: {given}") from e


class _Window(NamedTuple):
    """Samples that are shuffled among each other, and where the first stands."""

    shard: int
    offset: int
    record: int
    samples: list[Any]


class ShardStream:
    """Iterate once. ``position`` is where the next sample would come from: keep it, and another stream goes on there.

    ``skip`` samples are passed over first; ``decode`` makes of a sample what is given out.
    """

    def __init__(
        self,
        files: Files,
        shards: Sequence[str],
        part: Part,
        options: StreamOptions,
        *,
        start: Position | None = None,
        skip: int = 0,
        decode: Callable[[Any], Any] | None = None,
    ) -> None:
        self._start = begin = start or Position()
        self._at, self._done, self._given = (begin.shard, begin.offset, begin.record), begin.done, begin.samples
        self._files, self._options, self._skip, self._decode = files, options, skip, decode
        self.name = waits.loader_name()
        self._all_shards, self._part = shards, part
        self.shards = self._shards_of(begin.epoch)

    def _shards_of(self, epoch: int) -> list[str]:
        """What this worker reads of an epoch, in order."""
        options = self._options
        order = shard_order(self._all_shards, seed=options.seed, epoch=epoch, is_shuffled=options.is_shuffled)
        return share(order, self._part)

    @property
    def position(self) -> Position:
        """Where the next sample would come from. Put together only when it is asked for: not once a sample."""
        return Position(self._start.epoch, *self._at, self._done, self._given)

    def __iter__(self) -> Iterator[Any]:
        began_s = time.monotonic()
        try:
            for sample in self._all():
                given_s = time.monotonic()
                yield sample
                if time.monotonic() - given_s > GIVEN_S:
                    waits.note("given", given_s, by=self.name)
        finally:
            waits.note("stream", began_s, by=self.name)

    def _all(self) -> Iterator[Any]:
        start = self._start
        has_next, next_from = self._has_next(start.epoch), min(len(self.shards) - 1, len(self.shards) * NEXT_FROM)
        self._hint(self.shards[start.shard :], start.epoch)
        for window in self._windows(start):
            if has_next and window.shard >= next_from:
                has_next = False
                self._hint(self._shards_of(start.epoch + 1), start.epoch + 1, is_next=True)
            order = self._order(window)
            done = start.done if (window.shard, window.offset) == (start.shard, start.offset) else 0
            self._at = window[:3]
            for nth in range(done, len(order)):
                self._done, self._given = nth + 1, self._given + 1
                if self._skip:
                    self._skip -= 1
                    continue
                sample = window.samples[order[nth]]
                yield sample if self._decode is None else self._decode(sample)

    def _has_next(self, epoch: int) -> bool:
        epochs = self._options.epochs
        return epoch > 0 if epochs is None else epoch + 1 < epochs

    def _hint(self, shards: Sequence[str], epoch: int, *, is_next: bool = False) -> None:
        if self._options.hints and shards:
            rank = self._part.rank * self._part.workers + self._part.worker
            self._files.hint(shards, epoch=epoch, seed=self._options.seed, rank=rank, is_next=is_next)

    def _order(self, window: _Window) -> Sequence[int]:
        count, options = len(window.samples), self._options
        if options.window == 1 or not options.is_shuffled:
            return range(count)
        shard, epoch = self.shards[window.shard], self._start.epoch
        return window_order(count, seed=options.seed, epoch=epoch, shard=shard, first=window.record)

    def _windows(self, start: Position) -> Iterator[_Window]:
        """Windows are as long as they were before, wherever reading begins: they never cross a shard's end."""
        window: _Window | None = None
        shard, record = start.shard, start.record
        for section, offset, sample in self._samples(start):
            is_new = section.number != shard
            if is_new:
                shard, record = section.number, 0
            if window is not None and (is_new or len(window.samples) == self._options.window):
                yield window
                window = None
            if window is None:
                window = _Window(shard, offset, record, [])
            window.samples.append(sample)
            record += 1
        if window is not None:
            yield window

    def _samples(self, start: Position) -> Iterator[tuple[Section, int, Any]]:
        """Samples as they stand in the shards, each with where it begins (in tar shards: its number)."""
        is_tar = self._options.format == "tar"
        first = 0 if is_tar else start.offset
        sections = (
            Section(path, first if number == start.shard else 0, number)
            for number, path in enumerate(self.shards)
            if number >= start.shard
        )
        options, shape = self._options, self._files.shape
        with Pieces(
            self._files,
            sections,
            piece_bytes=options.piece_bytes or shape.piece_bytes,
            buffers=options.buffers or shape.buffers,
            streams_max=options.streams_max or shape.streams_max,
        ) as pieces:
            self.pieces = pieces
            pieces.name = self.name
            if is_tar:
                for section, number, sample in _tar_samples(pieces):
                    if section.number > start.shard or number >= start.offset:
                        yield section, number, sample
            else:
                yield from self._tfrecords(pieces)

    def _tfrecords(self, pieces: Pieces) -> Iterator[tuple[Section, int, bytes]]:
        splitter: tfrecord.Splitter | None = None
        for piece in pieces:
            if splitter is None:
                splitter = tfrecord.Splitter(piece.section.path, piece.offset, checks=self._options.checks)
            try:
                for offset, data in splitter.feed(piece.view):
                    yield piece.section, offset, data
                if piece.is_last:
                    splitter.finish()
                    splitter = None
            finally:
                pieces.release(piece)


def _tar_samples(pieces: Pieces) -> Iterator[tuple[Section, int, tar.Sample]]:
    """All shards, one tar after the other."""
    every = iter(pieces)
    while (first := next(every, None)) is not None:
        section = first.section
        file = _OneFile(pieces, every, first)
        for number, sample in enumerate(tar.samples(section.path, iter(file))):
            yield section, number, sample
        if not file.is_over:  # what follows the end mark of a tar is of no use
            for _ in file:
                pass


class _OneFile:
    """The views of one file's pieces; each is released when the next is asked for."""

    def __init__(self, pieces: Pieces, every: Iterator[Piece], first: Piece) -> None:
        self._pieces, self._every = pieces, every
        self._next: Piece | None = first
        self._lent: Piece | None = None
        self.is_over = False

    def __iter__(self) -> Iterator[memoryview]:
        return self

    def __next__(self) -> memoryview:
        if self._lent is not None:
            is_last = self._lent.is_last
            self._pieces.release(self._lent)
            self._lent = None
            self._next = None if is_last else next(self._every, None)
        if self._next is None:
            self.is_over = True
            raise StopIteration
        self._lent, self._next = self._next, None
        return self._lent.view
