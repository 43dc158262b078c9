"""Options that many commands share, and how the cluster they mean is found: flag, variable, file, default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from forebay.cli.api import REGISTRY_DEFAULT, Where
from forebay.cli.door import nearest
from forebay.errors import ConfigError
from forebay.runtime import ServiceSettings
from forebay.runtime.config import COMMON_PREFIX, SERVICE_PREFIXES
from forebay.runtime.config_file import FileValue, read_config_file

Registry = Annotated[
    str | None,
    typer.Option(
        envvar="FOREBAY_REGISTRY",
        help=f"http://host:port of a master, or zookeeper://host:port/path (unset: {REGISTRY_DEFAULT})",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="one JSON document instead of a table")]
PathArgument = Annotated[str, typer.Argument(help="absolute path in the namespace")]


def where(context: typer.Context, registry: str | None) -> Where:
    """The cluster that a command means."""
    found: Where = context.find_root().obj
    return found if registry is None else replace(found, registry=registry)


def from_file(path: Path | None) -> Mapping[str, FileValue]:
    """What a settings' file says to this command, by name; names of services are theirs to check.

    Raises:
        ConfigError: it cannot be read, or has a name that nobody knows.
    """
    if path is None:
        return {}
    said = read_config_file(path)
    known = {f"{COMMON_PREFIX}{name.upper()}" for name in ServiceSettings.common}
    for name in said:
        if name not in known and not name.startswith(SERVICE_PREFIXES):
            raise ConfigError("--config", f"{path}: {name} is no setting{nearest(name, known)}")
    return said


def text_of(said: Mapping[str, FileValue], name: str) -> str | None:
    """One value of the file."""
    value = said.get(f"{COMMON_PREFIX}{name}")
    return value if value is None or isinstance(value, str) else ",".join(value)


def path_of(said: Mapping[str, FileValue], name: str) -> Path | None:
    """One file name of the file."""
    text = text_of(said, name)
    return Path(text) if text is not None else None
