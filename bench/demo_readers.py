"""The demo's reader processes: each reads its share of the files in the order it is told, from a common barrier.

A reader knows nothing of the product: it opens files, or asks S3. The parent sends a ``Task``, waits until all readers
have prepared themselves, lets them go at once, and gets each one's last moment on the clock that all processes share
(CLOCK_MONOTONIC).
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from bench.demo_data import DataFile, count_records

PIECE_BYTES = 1 << 20
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Place:
    """Where files are read: below a folder, or below a prefix of a bucket (``environ`` has the credentials)."""

    kind: Literal["folder", "s3"]
    root: str
    endpoint: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One reader's part of one pass. ``hashes``: give the SHA-256 of each file instead of counting images."""

    place: Place
    files: tuple[DataFile, ...]
    hashes: bool = False


@dataclass(frozen=True)
class Done:
    """What a reader did: its last moment, bytes, images (TFRecords, and small files), hashes by path, or an error."""

    ended_s: float
    size: int = 0
    images: int = 0
    hashes: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Pass:
    """All readers together: from the barrier to the last byte."""

    seconds: float
    size: int
    images: int
    hashes: Mapping[str, str]


class Readers:
    """``count`` processes; ``with Readers(4) as readers``."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), name=f"reader-{number}", daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._pipes)

    def run(self, place: Place, files: Sequence[DataFile], *, hashes: bool = False) -> Pass:
        """One pass over ``files``, which the readers share as dealt cards.

        Raises:
            RuntimeError: a reader failed; the message is its error.
        """
        shares = [tuple(files[n :: self.count]) for n in range(self.count)]
        for pipe, share in zip(self._pipes, shares, strict=True):
            pipe.send(Task(place, share, hashes))
        for pipe in self._pipes:
            _receive(pipe)
        started_s = time.monotonic()
        for pipe in self._pipes:
            pipe.send("go")
        done = [_receive(pipe) for pipe in self._pipes]
        failed = next((d.error for d in done if d.error is not None), None)
        if failed is not None:
            raise RuntimeError(f"a reader failed: {failed}")
        return Pass(
            max(d.ended_s for d in done) - started_s,
            sum(d.size for d in done),
            sum(d.images for d in done),
            {path: value for d in done for path, value in d.hashes.items()},
        )

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def __enter__(self) -> Readers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError) as e:
        raise RuntimeError("a reader process ended") from e


# -- in the reader process


def _serve(pipe: Connection) -> None:
    buffer = bytearray(1 << 20)
    try:
        while True:
            task: Task = pipe.recv()
            read = _opener(task.place)
            longest = max((f.size for f in task.files), default=0)
            if longest > len(buffer):
                buffer = bytearray(longest)
            pipe.send("ready")
            pipe.recv()
            pipe.send(_work(task, read, memoryview(buffer)))
    except (EOFError, OSError, KeyboardInterrupt):
        return


Read = Callable[[DataFile, memoryview], int]
"""Reads a whole file into the buffer, a piece at a time; gives its length."""


def _work(task: Task, read: Read, buffer: memoryview) -> Done:
    size = images = 0
    hashes: dict[str, str] = {}
    try:
        for file in task.files:
            length = read(file, buffer)
            if length != file.size:
                raise ValueError(f"{file.path} has {length} bytes, not {file.size}")
            size += length
            if task.hashes:
                hashes[file.path] = hashlib.sha256(buffer[:length]).hexdigest()
            else:
                images += count_records(buffer[:length]) if file.is_shard else 1
    except Exception as e:  # noqa: BLE001  # the parent says it and ends the demo
        return Done(time.monotonic(), error=repr(e))
    return Done(time.monotonic(), size, images, hashes)


def _opener(place: Place) -> Read:
    if place.kind == "folder":
        root = Path(place.root)
        return lambda file, buffer: _read_file(root / file.path, buffer)
    return _s3_reader(place)


def _read_file(path: Path, buffer: memoryview) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        at = 0
        while n := os.readv(fd, [buffer[at : at + PIECE_BYTES]]):
            at += n
            if at == len(buffer):
                break
        return at
    finally:
        os.close(fd)


def _s3_reader(place: Place) -> Read:
    """One botocore client per reader; objects streamed piece by piece."""
    import botocore.session
    from botocore.config import Config

    os.environ.update(place.environ)
    when = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    config = Config(s3={"addressing_style": "path" if place.endpoint else "auto"}, **when)
    client = botocore.session.Session().create_client("s3", endpoint_url=place.endpoint, config=config)
    bucket, _, prefix = place.root.partition("/")

    def read(file: DataFile, buffer: memoryview) -> int:
        key = f"{prefix}/{file.path}" if prefix else file.path
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
        at = 0
        while at < len(buffer) and (n := body.readinto(buffer[at : at + PIECE_BYTES])):
            at += n
        body.close()
        return at

    return read
