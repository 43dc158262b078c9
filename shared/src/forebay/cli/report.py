"""``forebay report``: what the steps of a training waited for, as a table, JSON or a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from forebay.cli.door import errors
from forebay.cli.options import Json
from forebay.errors import InvalidRequest
from forebay.steps import EpochReport, read_spans
from forebay.steps import report as report_of
from forebay.steps.picture import picture


def report(
    folder: Annotated[Path, typer.Argument(help="what forebay.steps was told to write to", show_default=False)],
    as_json: Json = False,
    svg: Annotated[Path | None, typer.Option("--picture", help="write the timeline there, as SVG")] = None,
) -> None:
    """How many images/s a training lost in each epoch, and to what."""
    with errors():
        spans, is_whole = read_spans(folder)
        found = report_of(spans, is_whole=is_whole)
        if svg is not None:
            try:
                svg.write_text(picture(found, spans))
            except OSError as e:
                raise InvalidRequest(f"{svg}: {e.strerror}", path=str(svg)) from e
    if as_json:
        sys.stdout.write(found.json().decode())
        return
    for epoch in found.epochs:
        sys.stdout.write("\n".join(_lines(epoch)) + "\n")
    if not found.is_whole:
        sys.stdout.write("there were more spans than are kept: the last epochs are not whole\n")


def _lines(epoch: EpochReport) -> list[str]:
    lines = [
        f"epoch {epoch.epoch}: {epoch.images:,} images in {epoch.seconds:.2f} s, {epoch.images_per_s:,.1f} images/s;"
        f" without waiting {epoch.images_per_s_without_waits:,.1f}",
        f"  waited {epoch.waited_s:.3f} s in {epoch.steps} steps, {epoch.explained:.1%} of it explained; lost to",
    ]
    lines += [f"    {lost.cause:<11}{lost.images_per_s:10.1f} images/s {lost.seconds:9.3f} s" for lost in epoch.lost]
    lines += [
        f"    under store: {slow.path} block {slow.block} through {slow.worker}: {slow.images_per_s:.1f} images/s"
        for slow in epoch.slow
    ]
    return lines
