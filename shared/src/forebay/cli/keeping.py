"""``forebay free``, ``pin``, ``unpin``, ``ttl``: what the workers keep, said to all of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from forebay.cli import output
from forebay.cli.api import Api, run
from forebay.cli.door import errors
from forebay.cli.mounts import MOUNTS_PATH, change
from forebay.cli.options import Json, PathArgument, Registry, where
from forebay.contracts import FreeReply, FreeRequest, Member, Mount
from forebay.contracts.blocks import FREE_PATH, SETTINGS_PATH
from forebay.errors import ConfigError, Conflict, ForebayError, InvalidRequest, PeerUnavailable

FREE_S = 300.0
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_seconds(text: str) -> float:
    """``90``, ``90s``, ``15m``, ``2h``, ``7d``. Pure.

    Raises:
        ConfigError: another form.
    """
    unit = text[-1:].lower()
    try:
        seconds = float(text[:-1]) * SECONDS[unit] if unit in SECONDS else float(text)
    except ValueError as e:
        raise ConfigError("duration", f"{text!r} is no time such as 90s, 15m, 2h or 7d") from e
    if not 0 <= seconds <= 1e9:
        raise ConfigError("duration", f"{text} is out of bounds")
    return seconds


def _answering(api: Api) -> list[Member]:
    members = [m for m in api.members("worker") if m.state != "down"]
    if not members:
        raise PeerUnavailable("the cluster map has no worker that is up")
    return members


def free(
    context: typer.Context,
    path: Annotated[str | None, typer.Argument(help="a mount, or a path below one; omitted with --idle: all")] = None,
    idle: Annotated[str | None, typer.Option(help="only what was not read for so long: 90s, 15m, 2h, 7d")] = None,
    force: Annotated[bool, typer.Option("--force", help="also what is pinned")] = False,
    as_json: Json = False,
    registry: Registry = None,
) -> None:
    """Let go of cached blocks on all workers. The source keeps everything."""

    async def work(api: Api) -> dict[str, FreeReply]:
        if path is not None:
            await api.client.lookup(path)
        request = FreeRequest(path=path, idle_s=parse_seconds(idle) if idle else None, force=force)
        return {
            m.member_id: await api.call(m.tcp, "POST", FREE_PATH, FreeReply, request, wait_s=FREE_S)
            for m in _answering(api)
        }

    with errors():
        if path is None and idle is None:
            raise ConfigError("PATH", "say what to free: a path, or --idle TIME")
        found = run(where(context, registry), work)
        sums = {
            name: sum(getattr(reply, name) for reply in found.values())
            for name in ("freed_blocks", "freed_bytes", "busy_blocks", "pinned_blocks")
        }
        if as_json:
            output.show_json(sums | {"workers": len(found)})
            return
        kept = [f"{sums['busy_blocks']} are being read and go afterwards"] if sums["busy_blocks"] else []
        kept += [f"{sums['pinned_blocks']} stay because they are pinned (--force)"] if sums["pinned_blocks"] else []
        freed = f"{sums['freed_blocks']} blocks, {output.size(sums['freed_bytes'])} freed on {len(found)} workers"
        output.say("; ".join([freed, *kept]))


def check_whole(mount: Mount, path: str) -> None:
    """Pins and times are rules of whole mounts. Pure.

    Raises:
        InvalidRequest: ``path`` is no mount point.
    """
    if path.rstrip("/") != mount.path.rstrip("/"):
        raise InvalidRequest(f"{path} lies in the mount {mount.path}; pins and times hold for whole mounts")


async def _rule(api: Api, path: str, rule: dict[str, Any]) -> str:
    """Changes an option of a mount; of one that the master's settings give, workers are told. What was done."""
    mount = await api.mount_of(path)
    check_whole(mount, path)
    try:
        await change(api, "PATCH", f"{MOUNTS_PATH}/{mount.mount_id}", rule)
    except Conflict as e:
        if e.details.get("reason") != "of_settings":
            raise
        return await _tell_workers(api, mount, rule)
    return "for good; workers hear of it within seconds"


async def _tell_workers(api: Api, mount: Mount, rule: dict[str, Any]) -> str:
    """A rule until they restart.

    Raises:
        PeerUnavailable: some did not take it.
    """
    failed: list[str] = []
    members = _answering(api)
    for member in members:
        try:
            await api.json(member.tcp, "PATCH", SETTINGS_PATH, {"mounts": {mount.mount_id: rule}})
        except ForebayError as e:
            if not e.retryable:
                raise
            failed.append(f"{member.member_id}: {e.message}")
    taken = f"on {len(members) - len(failed)} workers, until they restart (the master's settings give this mount)"
    if failed:
        raise PeerUnavailable(f"{taken}; not said to {len(failed)}: {'; '.join(failed)}")
    return taken


def _say_rule(context: typer.Context, registry: str | None, path: str, rule: dict[str, Any], what: str) -> None:
    with errors():
        output.say(f"{what} {run(where(context, registry), lambda api: _rule(api, path, rule))}")


def pin(context: typer.Context, path: PathArgument, registry: Registry = None) -> None:
    """What is cached of a mount is never evicted."""
    _say_rule(context, registry, path, {"pin": True}, f"{path} is pinned")


def unpin(context: typer.Context, path: PathArgument, registry: Registry = None) -> None:
    """What is cached of a mount may be evicted again."""
    _say_rule(context, registry, path, {"pin": False}, f"{path} is not pinned")


def ttl(
    context: typer.Context,
    path: PathArgument,
    time: Annotated[str, typer.Argument(help="90s, 15m, 2h, 7d; 'own': none, or as the master's settings say")],
    registry: Registry = None,
) -> None:
    """Blocks of a mount that are not read for so long leave."""
    with errors():
        seconds = None if time == "own" else parse_seconds(time)
        if seconds == 0:
            raise ConfigError("TIME", "want more than 0 s; 'forebay free' lets go at once")
    _say_rule(context, registry, path, {"ttl_s": seconds}, f"{path} has the time to live {time}")
