"""``forebay sync``: the under store is asked now."""

from __future__ import annotations

from typing import Annotated

import typer

from forebay.cli import output
from forebay.cli.api import run
from forebay.cli.door import errors
from forebay.cli.options import PathArgument, Registry, where


def sync(
    context: typer.Context,
    path: PathArgument,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="every directory below PATH that is known, too")
    ] = False,
    registry: Registry = None,
) -> None:
    """Ask the under store about PATH now, whatever the consistency class says."""
    with errors():
        done = run(where(context, registry), lambda api: api.client.sync(path, recursive=recursive))
        output.say(f"{done.directories} directories asked anew, {done.changes} changes")
