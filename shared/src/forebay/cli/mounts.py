"""``forebay mounts``: what is mounted where, and with which options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from forebay.cli import output
from forebay.cli.api import Api, run
from forebay.cli.door import errors
from forebay.cli.options import Json, Registry, where
from forebay.contracts import Mount, MountsReply
from forebay.errors import ConfigError, ForebayError, NotFound
from forebay.runtime import parse_size

MOUNTS_PATH = "/v1/mounts"

app = typer.Typer(help="The mount table: sources and where they are shown.", no_args_is_help=True)

MaxAge = Annotated[
    str | None, typer.Option("--max-age", help="consistency: seconds, 'always' or 'immutable'", show_default=False)
]
Rule = Annotated[
    list[str] | None,
    typer.Option("--rule", help="PREFIX=MAX_AGE: another consistency below a prefix; repeatable", show_default=False),
]
BlockSize = Annotated[str | None, typer.Option(help="block size, as 64MiB", show_default=False)]
Replicas = Annotated[int | None, typer.Option(help="workers that may hold a block", show_default=False)]
Pin = Annotated[bool | None, typer.Option("--pin/--no-pin", help="evict nothing of it", show_default=False)]
Ttl = Annotated[float | None, typer.Option("--ttl", help="seconds after which an unread block leaves")]
ReadOnly = Annotated[
    bool | None,
    typer.Option("--read-only/--no-read-only", help="nothing writes to sources: --no is refused", show_default=False),
]
Quota = Annotated[str | None, typer.Option(help="what each worker keeps at most, as 10GiB")]


def consistency(text: str) -> float | None:
    """Seconds of ``max_age_s``.

    Raises:
        ConfigError: no number, ``always`` or ``immutable``.
    """
    words = {"immutable": None, "always": 0.0}
    if text in words:
        return words[text]
    try:
        return float(text)
    except ValueError as e:
        raise ConfigError("--max-age", "want seconds, 'always' or 'immutable'") from e


def chosen(**said: Any) -> dict[str, Any]:
    """The options that were given, as the API calls them.

    Raises:
        ConfigError: one that cannot be read.
    """
    found: dict[str, Any] = {
        name: said[name] for name in ("replicas", "pin", "ttl_s", "read_only") if said[name] is not None
    }
    for name, flag in (("block_size", "--block-size"), ("quota_bytes", "--quota")):
        if said[name] is not None:
            try:
                found[name] = parse_size(said[name])
            except ValueError as e:
                raise ConfigError(flag, str(e)) from e
    if said["max_age"] is not None:
        found["max_age_s"] = consistency(said["max_age"])
    if said["rules"] is not None:
        pairs = [rule.rpartition("=") for rule in said["rules"]]
        found["rules"] = [{"prefix": prefix.strip("/"), "max_age_s": consistency(age)} for prefix, _, age in pairs]
    return found


async def change(api: Api, method: str, path: str, body: Any = None) -> Mount:
    """A change of the table, by the first master that makes it."""
    error: ForebayError | None = None
    for master in api.masters():
        try:
            return msgspec.convert(await api.json(master, method, path, body, wait_s=60.0), Mount)
        except ForebayError as e:
            error = e
            if not e.retryable and e.code != "not_leader":
                raise
    raise error or NotFound("no master is known")


async def table(api: Api) -> tuple[Mount, ...]:
    """The mounts, in the order of their paths."""
    return (await api.call(api.masters()[0], "GET", MOUNTS_PATH, MountsReply)).mounts


async def found(api: Api, name: str) -> Mount:
    """A mount by its path or id.

    Raises:
        NotFound: there is none.
    """
    for mount in await table(api):
        if name in {mount.path, mount.mount_id}:
            return mount
    raise NotFound(f"nothing is mounted at {name}; 'forebay mounts ls' shows what is")


def say(mounts: Sequence[Mount], *, as_json: bool = False) -> None:
    """A line each, or JSON."""
    if as_json:
        output.show_json([msgspec.to_builtins(mount) for mount in mounts])
        return
    for mount in mounts:
        age = "immutable" if mount.max_age_s is None else f"{mount.max_age_s:g}s" if mount.max_age_s else "always"
        more = "".join(f" {rule.prefix}={rule.max_age_s}" for rule in mount.rules)
        output.say(f"{mount.path}\t{mount.ufs_uri}\t{age}{more}\t{mount.replicas}x\t{mount.mount_id}")


@app.command("ls")
def ls(context: typer.Context, as_json: Json = False, registry: Registry = None) -> None:
    """What is mounted."""
    with errors():
        say(run(where(context, registry), table), as_json=as_json)


@app.command("add")
def add(  # noqa: PLR0913, PLR0917  # each parameter is an option of the command line
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="where to show it, as /data")],
    source: Annotated[str, typer.Argument(help="s3://bucket/prefix, file:///folder, or any address fsspec knows")],
    endpoint: Annotated[str | None, typer.Option(help="endpoint of the source")] = None,
    region: Annotated[str | None, typer.Option(help="S3 region")] = None,
    profile: Annotated[str, typer.Option(help="credentials profile, of the services' configuration")] = "default",
    path_style: Annotated[bool, typer.Option(help="S3 path style addresses")] = False,
    anonymous: Annotated[bool, typer.Option(help="without credentials")] = False,
    max_age: MaxAge = None,
    rule: Rule = None,
    block_size: BlockSize = None,
    replicas: Replicas = None,
    pin: Pin = None,
    ttl: Ttl = None,
    quota: Quota = None,
    read_only: ReadOnly = None,
    registry: Registry = None,
) -> None:
    """Show SOURCE at PATH. It is listed first; what is wrong with it is said."""
    with errors():
        more = chosen(
            max_age=max_age,
            rules=rule,
            block_size=block_size,
            replicas=replicas,
            pin=pin,
            ttl_s=ttl,
            quota_bytes=quota,
            read_only=read_only,
        )
        options = {"profile": profile, "path_style": path_style, "anonymous": anonymous}
        options |= {name: value for name, value in (("endpoint", endpoint), ("region", region)) if value}
        body = {"path": path, "ufs_uri": source, "options": options if not source.startswith("file:") else {}, **more}
        say([run(where(context, registry), lambda api: change(api, "POST", MOUNTS_PATH, body))])


@app.command("set")
def set_(  # noqa: PLR0913, PLR0917  # each parameter is an option of the command line
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="path or id of the mount")],
    max_age: MaxAge = None,
    rule: Rule = None,
    block_size: BlockSize = None,
    replicas: Replicas = None,
    pin: Pin = None,
    ttl: Ttl = None,
    quota: Quota = None,
    read_only: ReadOnly = None,
    registry: Registry = None,
) -> None:
    """Change options of a mount; what is not given stays."""

    async def work(api: Api) -> Mount:
        mount = await found(api, path)
        return await change(api, "PATCH", f"{MOUNTS_PATH}/{mount.mount_id}", more)

    with errors():
        more = chosen(
            max_age=max_age,
            rules=rule,
            block_size=block_size,
            replicas=replicas,
            pin=pin,
            ttl_s=ttl,
            quota_bytes=quota,
            read_only=read_only,
        )
        if not more:
            raise ConfigError("set", "say what to change, as --max-age 10")
        say([run(where(context, registry), work)])


@app.command("rm")
def rm(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="path or id of the mount")],
    registry: Registry = None,
) -> None:
    """Take a mount away. What is in the source stays as it is."""

    async def work(api: Api) -> Mount:
        mount = await found(api, path)
        return await change(api, "DELETE", f"{MOUNTS_PATH}/{mount.mount_id}")

    with errors():
        gone = run(where(context, registry), work)
        output.say(f"{gone.path} is no longer mounted")
