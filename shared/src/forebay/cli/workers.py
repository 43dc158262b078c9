"""``forebay workers``: who they are, how full, and their place in the cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from forebay.cli import output
from forebay.cli.api import Api, run
from forebay.cli.door import errors
from forebay.cli.options import Json, Registry, where
from forebay.contracts import DrainReply, DrainRequest, Member, WeightReply, WeightRequest
from forebay.contracts.blocks import DRAIN_PATH, WEIGHT_PATH
from forebay.errors import ConfigError, Conflict, ForebayError

app = typer.Typer(help="The workers: how full they are, and their place in the cluster.", no_args_is_help=True)

WorkerName = Annotated[str, typer.Argument(help="id of a worker, as 'workers list' shows it")]


async def told(api: Api, member: Member) -> dict[str, Any]:
    """What the map and the worker itself say; a worker that is silent is told by the map alone."""
    found: dict[str, Any] = {
        "member_id": member.member_id,
        "address": member.tcp,
        "state": member.state,
        "capacity_weight": member.capacity_weight,
        "serving_weight": member.serving_weight,
        "capacity_bytes": sum(tier.capacity_bytes for tier in member.tiers),
        "version": member.version,
    }
    try:
        detail = (await api.json(member.tcp, "GET", "/v1/status", wait_s=3.0)).get("detail", {})
    except ForebayError as e:
        return found | {"answers": False, "reason": e.message}
    tiers = [part for name, part in detail.items() if name.startswith("tier") and isinstance(part, dict)]
    health = {name: part for name, part in detail.items() if name.startswith("health")}
    return found | {
        "answers": True,
        "tiers": tiers,
        "used_bytes": sum(tier.get("used_bytes", 0) for tier in tiers),
        "reads_in_flight": detail.get("reads_in_flight"),
        "health": health,
    }


def show(workers: Sequence[dict[str, Any]]) -> None:
    """A line each, and one for each health check of theirs."""
    columns = ["worker", "address", "state", "capacity weight", "serving weight", "used", "of", "full"]
    output.show_table(columns, [_row(w) for w in workers], right=(3, 4, 5, 6, 7))
    if checks := [line for w in workers for line in health_rows(w)]:
        output.show_table(["worker", "health check", "score", "reason"], checks, right=(2,))


def health_rows(worker: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Worker, check, score and reason of each check that a worker runs."""
    checks = worker.get("health") or {}
    return [
        (worker["member_id"], name.removeprefix("health "), f"{check.get('score', 0.0):.2f}", check.get("reason") or "")
        for name, check in checks.items()
    ]


def _row(worker: dict[str, Any]) -> tuple[object, ...]:
    used = worker.get("used_bytes")
    return (
        worker["member_id"],
        worker["address"],
        worker["state"] if worker["answers"] else f"{worker['state']}, silent",
        f"{worker['capacity_weight']:g}",
        f"{worker['serving_weight']:.2f}",
        "-" if used is None else output.size(used),
        output.size(worker["capacity_bytes"]),
        "-" if used is None else output.share(used, worker["capacity_bytes"]),
    )


@app.command(name="list")
def list_(context: typer.Context, as_json: Json = False, registry: Registry = None) -> None:
    """All workers of the map with their tiers."""

    async def work(api: Api) -> list[dict[str, Any]]:
        return [await told(api, m) for m in api.members("worker")]

    with errors():
        found = run(where(context, registry), work)
        output.show_json(found) if as_json else show(found)


def check_drain(name: str, members: Sequence[Member], *, force: bool) -> None:
    """Whether the worker may give its share away. Pure.

    Raises:
        Conflict: no other live worker owns blocks.
    """
    others = [m for m in members if m.member_id != name and m.state == "live" and m.capacity_weight > 0]
    if not others and not force:
        raise Conflict(
            f"{name} is the last worker that owns blocks; nothing would be cached any more (--force does it)"
        )


async def _drain(api: Api, name: str, draining: bool) -> str:
    member = api.member(name)
    reply = await api.call(member.tcp, "POST", DRAIN_PATH, DrainReply, DrainRequest(draining=draining))
    return reply.state


@app.command()
def drain(
    context: typer.Context,
    name: WorkerName,
    force: Annotated[bool, typer.Option("--force", help="also the last worker that owns blocks")] = False,
    registry: Registry = None,
) -> None:
    """Give a worker's share of the blocks away: it answers what it holds and owns nothing new."""

    async def work(api: Api) -> str:
        api.member(name)
        check_drain(name, api.members("worker"), force=force)
        return await _drain(api, name, True)

    with errors():
        output.say(f"{name} is {run(where(context, registry), work)}; 'forebay workers undrain {name}' takes it back")


@app.command()
def undrain(context: typer.Context, name: WorkerName, registry: Registry = None) -> None:
    """A drained worker takes its share of the blocks back."""
    with errors():
        output.say(f"{name} is {run(where(context, registry), lambda api: _drain(api, name, False))}")


@app.command()
def weight(
    context: typer.Context,
    name: WorkerName,
    value: Annotated[
        str, typer.Argument(help="capacity weight: its share of the blocks in relation to others; 'own' as configured")
    ],
    registry: Registry = None,
) -> None:
    """Change a worker's share of the blocks until it restarts. Blocks move when they are read next."""

    async def work(api: Api) -> float:
        member = api.member(name)
        wanted = parse_weight(value)
        if wanted == 0:
            check_drain(name, api.members("worker"), force=False)
        request = WeightRequest(capacity_weight=wanted)
        return (await api.call(member.tcp, "POST", WEIGHT_PATH, WeightReply, request)).capacity_weight

    with errors():
        output.say(f"{name} has the capacity weight {run(where(context, registry), work):g}")


def parse_weight(text: str) -> float | None:
    """A weight, or ``None`` for the configured one. Pure.

    Raises:
        ConfigError: neither.
    """
    if text == "own":
        return None
    try:
        value = float(text)
    except ValueError as e:
        raise ConfigError("VALUE", f"{text!r} is no number; or say own") from e
    if not 0 <= value <= 1e15:
        raise ConfigError("VALUE", f"{text} is not between 0 and 1e15")
    return value
