"""A reader for ``moving``: a client that reads random ranges until its standard input ends, then prints what it saw.

A process of its own, so that what is measured shares no event loop with what is done to the workers. Times are of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import random
import sys
import time
from pathlib import Path

import uvloop

from forebay.client import Client, ClientOptions, Reader
from forebay.errors import ForebayError
from forebay.telemetry import quiet

CHECK_EVERY = 4
"""Every so many reads the bytes are compared with the source's (a comparison costs as much as half a read)."""


class Readings:
    """``streams`` reads at a time, each of ``length`` bytes at a random place; (end, seconds) of each."""

    def __init__(self, source: Path, length: int, streams: int) -> None:
        self._length = length
        self._streams = streams
        self._files: dict[str, mmap.mmap] = {}
        for path in sorted(source.iterdir()):
            with path.open("rb") as file:
                self._files[path.name] = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._stopped = asyncio.Event()
        self.reads: list[tuple[float, float]] = []
        self.errors: list[str] = []
        self.wrong = 0

    async def run(self, client: Client) -> None:
        """Until standard input ends."""
        readers = {name: await client.open(f"/{name}") for name in self._files}
        loop = asyncio.get_running_loop()
        ended = loop.run_in_executor(None, sys.stdin.buffer.read)
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            for seed in range(self._streams):
                group.create_task(self._stream(readers, random.Random(seed)))
            await ended
            self._stopped.set()
        for reader in readers.values():
            await reader.close()

    async def _stream(self, readers: dict[str, Reader], rng: random.Random) -> None:
        buffer = memoryview(bytearray(self._length))
        names = list(readers)
        count = rng.randrange(CHECK_EVERY)
        while not self._stopped.is_set():
            name = rng.choice(names)
            offset = rng.randrange(readers[name].size // self._length) * self._length
            started = time.monotonic()
            try:
                await readers[name].read_into(offset, buffer)
            except ForebayError as e:
                self.errors.append(f"{e.code}: {e.message}")
                continue
            ended = time.monotonic()
            self.reads.append((ended, ended - started))
            count += 1
            if count % CHECK_EVERY == 0 and buffer != self._files[name][offset : offset + self._length]:
                self.wrong += 1


async def main() -> None:
    """Read, then say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("registry")
    parser.add_argument("source", type=Path)
    parser.add_argument("length", type=int)
    parser.add_argument("streams", type=int)
    args = parser.parse_args()
    readings = Readings(args.source, args.length, args.streams)
    options = ClientOptions(registry=args.registry, client_id="bench-reader", readahead_bytes=0)
    async with Client(options, quiet()) as client:
        await readings.run(client)
    said = {"reads": readings.reads, "errors": readings.errors, "wrong": readings.wrong}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
