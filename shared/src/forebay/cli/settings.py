"""``forebay settings``: what can be changed while workers run."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from forebay.cli import output
from forebay.cli.api import Api, run
from forebay.cli.door import errors, nearest
from forebay.cli.options import Json, Registry, where
from forebay.contracts import Member
from forebay.contracts.blocks import SETTINGS_PATH
from forebay.errors import ConfigError, PeerUnavailable

app = typer.Typer(help="Settings of workers that change while they run.", no_args_is_help=True)

Worker = Annotated[str | None, typer.Option("--worker", "-w", help="one worker instead of all")]


def _meant(api: Api, worker: str | None) -> list[Member]:
    members = [api.member(worker)] if worker is not None else [m for m in api.members("worker") if m.state != "down"]
    if not members:
        raise PeerUnavailable("the cluster map has no worker that is up")
    return members


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names. Pure."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return found


def patch_of(changes: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """The merge patch of ``name=value`` words; dots nest; values are JSON where they can be, else text. Pure.

    Raises:
        ConfigError: another form, or a name that no worker has; the nearest is named.
    """
    patch: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        head = name.partition(".")[0]
        if not equals or not name:
            raise ConfigError(change, "want NAME=VALUE, such as policy=lru")
        if head not in known:
            raise ConfigError(name, f"is no setting{nearest(head, known)}; 'forebay settings show' lists them")
        try:
            value: Any = orjson.loads(text)
        except orjson.JSONDecodeError:
            value = text
        place = patch
        *outer, last = name.split(".")
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return patch


@app.command()
def show(context: typer.Context, worker: Worker = None, as_json: Json = False, registry: Registry = None) -> None:
    """The settings of each worker, and where they differ."""

    async def work(api: Api) -> dict[str, Any]:
        return {m.member_id: (await api.json(m.tcp, "GET", SETTINGS_PATH))["settings"] for m in _meant(api, worker)}

    with errors():
        found = run(where(context, registry), work)
        if as_json:
            output.show_json(found)
            return
        flats = {name: flat(settings) for name, settings in found.items()}
        names = sorted({setting for settings in flats.values() for setting in settings})
        rows = [(n, *(_text(settings.get(n)) for settings in flats.values())) for n in names]
        output.show_table(["setting", *flats], rows)


def _text(value: Any) -> str:
    return "-" if value in (None, {}) else orjson.dumps(value).decode().strip('"')


@app.command(name="set")
def set_(
    context: typer.Context,
    changes: Annotated[list[str], typer.Argument(help="NAME=VALUE…, such as policy=lru reserved_bytes=2GiB")],
    worker: Worker = None,
    registry: Registry = None,
) -> None:
    """Change settings at once, until the workers restart; a worker takes all of it or nothing."""

    async def work(api: Api) -> list[str]:
        members = _meant(api, worker)
        known = (await api.json(members[0].tcp, "GET", SETTINGS_PATH))["settings"]
        patch = patch_of(changes, known)
        for member in members:
            await api.json(member.tcp, "PATCH", SETTINGS_PATH, patch)
        return [m.member_id for m in members]

    with errors():
        output.say(f"changed on {', '.join(run(where(context, registry), work))}, until they restart")
