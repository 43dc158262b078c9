"""``forebay bench``: reads what lies below a path, several files at once, and says how fast and from where."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from forebay.cli import output
from forebay.cli.api import Api, connected
from forebay.cli.door import errors
from forebay.cli.options import Json, PathArgument, Registry, where
from forebay.cli.reading import walk
from forebay.errors import NotFound
from forebay.telemetry import Counter, Metrics, Telemetry, Tracer

FILES_MAX = 100_000
PIECE_BYTES = 4 << 20


@dataclass
class Measured:
    """One pass over the files."""

    bytes: int = 0
    files: int = 0
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        """Of the time that a whole file took."""
        ordered = sorted(self.latencies_s)
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def bench(
    context: typer.Context,
    path: PathArgument,
    readers: Annotated[int, typer.Option(min=1, max=256, help="files read at once")] = 8,
    passes: Annotated[int, typer.Option(min=1, max=100, help="times that everything is read")] = 2,
    as_json: Json = False,
    registry: Registry = None,
) -> None:
    """Read all files below a path through the workers, and report each pass: rate, time of a file, sources."""

    async def work(api: Api) -> list[dict[str, Any]]:
        files = [(p, e.size) async for p, e in walk(api, path)]
        if not files:
            raise NotFound(f"no files lie below {path}", path=path)
        return [await _pass(api, telemetry.metrics, files[:FILES_MAX], readers, number) for number in range(passes)]

    telemetry = Telemetry("forebay-bench", Metrics(), Tracer(None, 0.0))
    with errors():
        found = asyncio.run(connected(where(context, registry), work, telemetry))
        if as_json:
            output.show_json(found)
            return
        rows = [_row(number, measured) for number, measured in enumerate(found, 1)]
        columns = ["pass", "files", "bytes", "rate", "file (median)", "file (99 %)", "from"]
        output.show_table(columns, rows, right=(0, 1, 2, 3, 4, 5))


def _row(number: int, measured: dict[str, Any]) -> tuple[object, ...]:
    whole = measured["bytes"]
    return (
        number,
        measured["files"],
        output.size(whole),
        f"{measured['MBps']:.0f} MB/s",
        f"{measured['p50_ms']:.1f} ms",
        f"{measured['p99_ms']:.1f} ms",
        ", ".join(f"{source} {output.share(count, whole)}" for source, count in measured["sources"].items()),
    )


async def _pass(api: Api, metrics: Metrics, files: list[tuple[str, int]], readers: int, number: int) -> dict[str, Any]:
    done, before = Measured(), sources(metrics)
    queue = iter(files)
    with output.progress(f"pass {number + 1}", sum(size for _, size in files)) as bar:

        async def pull() -> None:
            buffer = memoryview(bytearray(PIECE_BYTES))
            for name, _ in queue:
                begun_s = time.perf_counter()
                reader = await api.client.open(name)
                at = 0
                try:
                    while n := await reader.read_into(at, buffer):
                        at += n
                        done.bytes += n
                        bar.at(done.bytes)
                finally:
                    await reader.close()
                done.files += 1
                done.latencies_s.append(time.perf_counter() - begun_s)

        begun_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(readers):
                group.create_task(pull())
        done.seconds = time.perf_counter() - begun_s
    after = sources(metrics)
    return {
        "files": done.files,
        "bytes": done.bytes,
        "seconds": round(done.seconds, 3),
        "MBps": done.bytes / 1e6 / max(done.seconds, 1e-9),
        "p50_ms": done.percentile_ms(0.5),
        "p99_ms": done.percentile_ms(0.99),
        "sources": {k: v - before.get(k, 0.0) for k, v in after.items() if v > before.get(k, 0.0)},
    }


def sources(metrics: Metrics) -> dict[str, float]:
    """Bytes that a client read so far, by where they came from."""
    for instrument in metrics:
        if isinstance(instrument, Counter) and instrument.description.name == "forebay_client_read_bytes_total":
            return {labels[0]: value for labels, value in instrument.values().items()}
    return {}
