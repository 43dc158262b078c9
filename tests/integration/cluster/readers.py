"""Readers under way while something happens to a cluster: every byte compared, every duration kept."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from forebay.client import Client, ClientOptions, Reader
from forebay.errors import ForebayError
from forebay.telemetry import quiet

READ_BYTES = 512 << 10


@dataclass
class Seen:
    """(end, seconds) of each read by the monotonic clock; what failed; how many reads gave wrong bytes."""

    reads: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wrong: int = 0

    def between(self, start_s: float, stop_s: float) -> list[float]:
        """Durations, sorted, of reads that ended between two moments."""
        return sorted(took for end, took in self.reads if start_s <= end < stop_s)

    def is_right(self) -> bool:
        """Whether no read failed, and none gave a wrong byte."""
        assert self.errors == [], self.errors[:5]
        assert self.wrong == 0
        return True


async def read_while(
    options: ClientOptions,
    files: Mapping[str, bytes],
    hurt: Callable[[], None],
    *,
    before_s: float,
    after_s: float,
    streams: int = 6,
) -> tuple[Seen, float]:
    """Reads all files once, then random ranges by ``streams`` readers; ``hurt`` happens after ``before_s``. What was
    seen, and when it happened."""
    seen, stop = Seen(), asyncio.Event()
    async with Client(options, quiet()) as client:
        readers = {name: await client.open(f"/{name}") for name in files}
        for name, reader in readers.items():
            assert await reader.read(0, reader.size) == files[name]
        async with asyncio.TaskGroup() as group:
            for seed in range(streams):
                group.create_task(_stream(readers, files, seen, stop, random.Random(seed)))
            await asyncio.sleep(before_s)
            happened_s = time.monotonic()
            await asyncio.to_thread(hurt)
            await asyncio.sleep(after_s)
            stop.set()
        for reader in readers.values():
            await reader.close()
    return seen, happened_s


async def _stream(
    readers: Mapping[str, Reader], files: Mapping[str, bytes], seen: Seen, stop: asyncio.Event, rng: random.Random
) -> None:
    names = list(files)
    while not stop.is_set():
        name = rng.choice(names)
        offset = rng.randrange(len(files[name]))
        started = time.monotonic()
        try:
            got = await readers[name].read(offset, READ_BYTES)
        except ForebayError as e:
            seen.errors.append(f"{e.code}: {e.message}")
            continue
        seen.reads.append((time.monotonic(), time.monotonic() - started))
        seen.wrong += got != files[name][offset : offset + READ_BYTES]
