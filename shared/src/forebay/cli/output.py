"""What commands print: tables for people, JSON for programs, progress for a terminal. Nothing else writes to stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

WIDE = 10_000
"""Columns where there is no terminal: a program that reads a table gets every line whole."""


def size(count: float) -> str:
    """``1.5 GiB``. Pure."""
    unit = 0
    while count >= 1024 and unit < 5:
        count, unit = count / 1024, unit + 1
    number = f"{count:.0f}" if unit == 0 or count >= 100 else f"{count:.1f}"
    return f"{number} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[unit]}"


def share(part: float, whole: float) -> str:
    """``37 %``, or a dash of nothing. Pure."""
    return f"{100 * part / whole:.0f} %" if whole else "-"


def show_json(data: Any) -> None:
    """One JSON document; records as they travel."""
    sys.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[int] = ()) -> None:
    """Aligned columns with a head; ``right`` are numbers of columns aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    stdout().print(table)


def show_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in pairs:
        table.add_row(escape(name), escape(str(value)))
    stdout().print(table)


def say(text: str) -> None:
    """A sentence on standard output."""
    stdout().print(escape(text), soft_wrap=True)


def note(text: str) -> None:
    """A sentence on standard error: it is about the work and not its result."""
    Console(stderr=True, highlight=False).print(escape(text), soft_wrap=True)


def stdout() -> Console:
    """Standard output as it is now."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=WIDE)


class Bar:
    """How far something long is; draws nothing where standard error is no terminal."""

    def __init__(self, progress: Progress | None, what: str, total: float | None) -> None:
        self._progress = progress
        self._task = progress.add_task(what, total=total) if progress is not None else None

    def at(self, done: float, total: float | None = None, what: str | None = None) -> None:
        """So much is done, of so much."""
        if self._progress is not None and self._task is not None:
            changes: dict[str, Any] = {"completed": done}
            if total is not None:
                changes["total"] = total
            if what is not None:
                changes["description"] = what
            self._progress.update(self._task, **changes)


@contextmanager
def progress(what: str, total: float | None = None, *, in_bytes: bool = True) -> Iterator[Bar]:
    """A bar with rate and time left, on standard error, gone when it is over."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bar(None, what, total)
        return
    counts = (DownloadColumn(binary_units=True), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        yield Bar(shown, what, total)
