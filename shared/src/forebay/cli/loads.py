"""``forebay load`` and ``forebay loads``: fill the cache, and believe it only when the workers hold everything."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import msgspec
import typer

from forebay.cli import output
from forebay.cli.api import Api, Where, run
from forebay.cli.door import EXIT_FAILED, errors
from forebay.cli.options import Json, PathArgument, Registry, where
from forebay.contracts.loads import LOADS_PATH, LoadPlan, LoadRequest, LoadsReply, LoadStatus
from forebay.errors import ForebayError, PeerUnavailable

WAIT_S = 10.0
AWAY_S = 120.0
"""How long a master may be away while its load is followed."""

AWAY_PAUSE_S = 0.5
SHOWN_MAX = 20
"""Missing blocks that are printed; ``--json`` has more."""

app = typer.Typer(help="Loads that run, and that ran.", no_args_is_help=True)


def load(  # noqa: PLR0913, PLR0917  # each parameter is an option of the command line
    context: typer.Context,
    path: PathArgument,
    replicas: Annotated[int | None, typer.Option(min=1, max=16, help="copies of each block (unset: the mount's)")] = (
        None
    ),
    partial: Annotated[bool, typer.Option("--partial", help="begin although not all of it fits")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="compare every byte with its checksum at the end")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    wait: Annotated[bool, typer.Option(help="follow it until it is over")] = True,
    as_json: Json = False,
    registry: Registry = None,
) -> None:
    """Fill the cache with all files at or below a path.

    It says before it begins what will not fit and why, goes on when workers or the master die, and succeeds only when
    the workers' own files agree; otherwise it lists what is missing. Ctrl-C leaves it running.
    """
    request = LoadRequest(path=path, replicas=replicas, partial=partial, verify=verify, dry_run=dry_run)
    with errors():
        status = start(where(context, registry), request, wait=wait, quiet=as_json)
        if as_json:
            output.show_json(msgspec.to_builtins(status))
        else:
            tell(status)
    if status.state in ("failed", "cancelled"):
        raise typer.Exit(EXIT_FAILED)


def start(found: Where, request: LoadRequest, *, wait: bool = True, quiet: bool = False) -> LoadStatus:
    """Begins a load and follows it."""

    async def work(api: Api) -> LoadStatus:
        status = await api.master("POST", LOADS_PATH, LoadStatus, request)
        if not quiet:
            output.note(f"{status.load_id}: 'forebay loads cancel {status.load_id}' ends it")
        return await follow(api, status) if wait else status

    return run(found, work)


async def follow(api: Api, status: LoadStatus) -> LoadStatus:
    """Shows progress until the load is over; a master that is away may come back.

    Raises:
        PeerUnavailable: it does not, within ``AWAY_S``.
    """
    told, until_s = False, time.monotonic() + AWAY_S
    with output.progress(f"loading {status.request.path}") as bar:
        while not status.is_over:
            path = f"{LOADS_PATH}/{status.load_id}?after={status.revision}&wait_s={WAIT_S:g}"
            try:
                status = await api.master("GET", path, LoadStatus, wait_s=WAIT_S + 10)
            except ForebayError as e:
                if not e.retryable or time.monotonic() > until_s:
                    raise PeerUnavailable(f"lost sight of {status.load_id}: {e.message}") from e
                await asyncio.sleep(AWAY_PAUSE_S)
                continue
            until_s = time.monotonic() + AWAY_S
            if status.plan is not None:
                if not told:
                    for line in warnings(status.plan):
                        output.note(line)
                told = True
                bar.at(status.done_bytes, status.plan.bytes, f"{status.state} {status.request.path}")
    return status


def warnings(plan: LoadPlan) -> list[str]:
    """What speaks against it, worker by worker. Pure."""
    return [f"{s.member_id}: {s.reason}" for s in plan.shares if s.reason]


def tell(status: LoadStatus) -> None:
    """The outcome: a table of what each worker holds, a sentence, and what is missing."""
    if status.plan is not None:
        sizes = [[output.size(n) for n in (s.bytes, s.held_bytes, s.capacity_bytes)] for s in status.plan.shares]
        shares = zip(status.plan.shares, sizes, strict=True)
        rows = [(s.member_id, s.blocks, *texts, s.reason) for s, texts in shares]
        columns = ["worker", "blocks", "bytes", "held before", "capacity", "against it"]
        output.show_table(columns, rows, right=(1, 2, 3, 4))
    output.say(f"{status.load_id} {status.state}" + (f": {status.message}" if status.message else ""))
    if status.missing:
        shown = status.missing[:SHOWN_MAX]
        lost = [(m.path, m.index, m.member_id, m.reason) for m in shown]
        output.show_table(["missing", "block", "worker", "why"], lost)
        if status.missing_blocks > len(shown):
            output.say(f"and {status.missing_blocks - len(shown)} more (--json lists up to {len(status.missing)})")


LoadName = Annotated[str, typer.Argument(help="id of a load, as 'loads list' shows it")]


@app.command(name="list")
def list_(context: typer.Context, as_json: Json = False, registry: Registry = None) -> None:
    """All loads that the master remembers, the newest first."""
    with errors():
        found = run(where(context, registry), lambda api: api.master("GET", LOADS_PATH, LoadsReply)).loads
        if as_json:
            output.show_json(msgspec.to_builtins(found))
            return
        rows = [
            (s.load_id, s.request.path, s.state, output.share(s.done_bytes, s.plan.bytes if s.plan else 0), s.message)
            for s in found
        ]
        output.show_table(["load", "path", "state", "done", ""], rows)


@app.command()
def show(context: typer.Context, name: LoadName, as_json: Json = False, registry: Registry = None) -> None:
    """One load with what each worker is to hold, and what is missing."""
    with errors():
        status = run(where(context, registry), lambda api: api.master("GET", f"{LOADS_PATH}/{name}", LoadStatus))
        output.show_json(msgspec.to_builtins(status)) if as_json else tell(status)


@app.command(name="follow")
def follow_(context: typer.Context, name: LoadName, as_json: Json = False, registry: Registry = None) -> None:
    """Show the progress of a load until it is over."""

    async def work(api: Api) -> LoadStatus:
        return await follow(api, await api.master("GET", f"{LOADS_PATH}/{name}", LoadStatus))

    with errors():
        status = run(where(context, registry), work)
        output.show_json(msgspec.to_builtins(status)) if as_json else tell(status)
    if status.state in ("failed", "cancelled"):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def cancel(context: typer.Context, name: LoadName, registry: Registry = None) -> None:
    """End a load; what is filled stays."""
    with errors():
        status = run(where(context, registry), lambda api: api.master("DELETE", f"{LOADS_PATH}/{name}", LoadStatus))
        output.say(f"{name} is {status.state}; {output.size(status.filled_bytes)} were filled and stay")
