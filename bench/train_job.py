"""The dataset that the train bench reads, and the loop that reads it: real JPEGs in TFRecord shards, a sleep a batch.

As MLPerf Storage does it, computation is a sleep per batch (`bench.train_profiles`); records are read, checked and cut
by `forebay.data`, a few batches ahead. One process stands for all accelerators of a node.
"""

from __future__ import annotations

import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.demo_data import commented, make_images, shard
from bench.figures import Options
from bench.train_profiles import PROFILES, RECORDS_PER_SHARD
from forebay.data import Files, Part, Position, ShardStream, StreamOptions
from forebay.data.tfrecord import Splitter
from forebay.errors import ForebayError

SHARDS, QUICK_SHARDS = 32, 8
SHARD_BYTES, QUICK_SHARD_BYTES = RECORDS_PER_SHARD * 114_660 // 4, 4 << 20
"""A quarter of that benchmark's shards, so that there are many to share among four workers."""

IMAGES, QUICK_IMAGES = 56, 14
BATCH = PROFILES["resnet50-a100"].batch // 8
"""An eighth of a batch at eight times the rate: the same pace in a shorter run."""

COMMENT_BYTES, COMMENT_HEAD = 60_000, 4
"""Of one comment in a JPEG: at most 65,533, behind a marker and a length."""

AHEAD = 16
"""Batches that are ready before they are asked for: two of that benchmark's."""

TUNED_INPUT = StreamOptions(window=1)
ONE_THREAD = StreamOptions(window=1, buffers=1, streams_max=1, piece_bytes=256 << 10)
"""One reader with the buffer that TFRecordDataset has by default."""

Decode = Callable[[Any], Any]


@dataclass(frozen=True)
class Ran:
    """What a job reached: images, seconds, and the seconds that the accelerators computed."""

    images: int
    seconds: float
    computed_s: float

    @property
    def images_per_s(self) -> float:
        """Of the whole run."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def utilisation(self) -> float:
        """The share of time that the accelerators computed."""
        return self.computed_s / self.seconds if self.seconds else 0.0

    def __add__(self, other: Ran) -> Ran:
        return Ran(self.images + other.images, self.seconds + other.seconds, self.computed_s + other.computed_s)


Batch = tuple[int, float]
"""Images, and when they were ready."""


def train(batches: Iterator[Batch], *, step_s: float) -> Ran:
    """Steps until there is no batch left. The clock begins with the first batch, as there.

    An accelerator computes beside its host: it begins with a batch as soon as that is ready and the one before is done,
    even if this thread (which shares two CPUs with the whole cluster) is woken later. So steps end at moments that are
    reckoned, and a late one does not move the next. What is measured is the clock.
    """
    images, steps, began_s, end_s = 0, 0, 0.0, 0.0
    for count, ready_s in batches:
        began_s = began_s or time.monotonic()
        images, steps = images + count, steps + 1
        end_s = max(end_s or began_s, ready_s) + step_s
        left_s = end_s - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
    return Ran(images, time.monotonic() - began_s, steps * step_s)


def synthetic(count: int, step_s: float, size: int = BATCH) -> Ran:
    """As many batches that need no data."""
    return train(iter([(size, 0.0)] * count), step_s=step_s)


@dataclass(frozen=True)
class Job:
    """A dataset: names of its shards in ``folder``, their bytes and records."""

    folder: Path
    names: tuple[str, ...]
    bytes: int
    records: int

    @property
    def record_bytes(self) -> float:
        """Of a record with its framing."""
        return self.bytes / self.records

    def step_s(self, mbps: float) -> float:
        """Of a batch, at a pace."""
        return BATCH * self.record_bytes / 1e6 / mbps

    def mbps(self, ran: Ran) -> float:
        """Bytes of records."""
        return ran.images_per_s * self.record_bytes / 1e6

    def run(
        self,
        files: Files,
        step_s: float,
        *,
        options: StreamOptions = TUNED_INPUT,
        epoch: int = 0,
        loaders: int = 1,
        decode: Decode | None = None,
    ) -> Ran:
        """One epoch."""
        return train(batches(files, self.names, options, epoch=epoch, loaders=loaders, decode=decode), step_s=step_s)

    def steps(self) -> int:
        """Whole batches of an epoch that one loader reads."""
        return self.records // BATCH


def batches(
    files: Files,
    names: Sequence[str],
    options: StreamOptions,
    *,
    epoch: int = 0,
    loaders: int = 1,
    decode: Decode | None = None,
    size: int = BATCH,
    ahead: int = AHEAD,
) -> Iterator[Batch]:
    """Whole batches of ``size`` records, read a few ahead by threads that share the shards; what each has left is not
    used."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(ahead)
    is_over = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not is_over.is_set():
            try:
                return ready.put(item, timeout=0.5)
            except queue.Full:
                continue

    def load(number: int) -> None:
        try:
            part, start = Part(worker=number, workers=loaders), Position(epoch=epoch)
            stream = iter(ShardStream(files, names, part, options, start=start, decode=decode))
            while len([0 for _, _ in zip(range(size), stream, strict=False)]) == size and not is_over.is_set():
                put((size, time.monotonic()))
            put(None)
        except BaseException as e:
            put(e)
            if not isinstance(e, ForebayError):
                raise

    threads = [threading.Thread(target=load, args=(n,), name="loader", daemon=True) for n in range(loaders)]
    for thread in threads:
        thread.start()
    left = loaders
    try:
        while left:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        is_over.set()
        for thread in threads:
            thread.join(30)


def count_records(data: bytes, path: str) -> int:
    """Of a shard."""
    splitter = Splitter(path, 0, checks=False)
    return sum(1 for _ in splitter.feed(memoryview(data)))


def padded(pictures: Sequence[bytes], mean: int) -> list[bytes]:
    """The same JPEGs with comments, so that they are as long as that on average; left alone where they are longer."""
    found, more = list(pictures), mean - sum(map(len, pictures)) // len(pictures)
    while more >= COMMENT_HEAD:
        length = min(COMMENT_BYTES, more)
        found = [commented(picture, "." * (length - COMMENT_HEAD)) for picture in found]
        more -= length
    return found


def write_job(folder: Path, *, shards: int, shard_bytes: int, images: int, record_bytes: int = 0) -> Job:
    """Shards of JPEGs that are made from photographs, about as long as that benchmark's records, or (with comments) on
    average at least ``record_bytes``."""
    with tempfile.TemporaryDirectory(prefix="forebay-train-images-") as text:
        pictures = padded(make_images(Path(text), images), record_bytes)
    names, total, records = [], 0, 0
    for number in range(shards):
        names.append(f"part-{number:05}.tfrecord")
        data = shard(pictures, number, shard_bytes)
        total, records = total + len(data), records + count_records(data, names[-1])
        (folder / names[-1]).write_bytes(data)
    return Job(folder, tuple(names), total, records)


@contextmanager
def job(options: Options, *, shards: int = SHARDS, record_bytes: int = 0) -> Iterator[Job]:
    """In /dev/shm: what is measured is not this machine's disk."""
    with tempfile.TemporaryDirectory(prefix="forebay-train-", dir="/dev/shm") as text:
        if options.quick:
            shards, size, images = QUICK_SHARDS, QUICK_SHARD_BYTES, QUICK_IMAGES
        else:
            size, images = SHARD_BYTES, IMAGES
        yield write_job(Path(text), shards=shards, shard_bytes=size, images=images, record_bytes=record_bytes)
