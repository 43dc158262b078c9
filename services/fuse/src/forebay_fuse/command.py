"""The command line: settings, then the gateway, behind a guard if it has a keeper."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import forebay_fuse
from forebay.errors import ConfigError
from forebay.runtime import load, logs, run
from forebay.runtime.supervisor import EXIT_CONFIG
from forebay_fuse.app import serve
from forebay_fuse.guard import Guard
from forebay_fuse.settings import FuseSettings


def arguments(argv: Sequence[str]) -> list[str]:
    """``forebay-fuse DIR …`` is short for ``--mountpoint DIR``, wherever ``DIR`` stands between the flags.

    Raises:
        ConfigError: more than one directory.
    """
    out: list[str] = []
    rest = iter(argv)
    for word in rest:
        if not word.startswith("-"):
            out += ["--mountpoint", word]
            continue
        out.append(word)
        if _takes_value(word) and (value := next(rest, None)) is not None:
            out.append(value)
    if sum(word == "--mountpoint" or word.startswith("--mountpoint=") for word in out) > 1:
        raise ConfigError("--mountpoint", "one directory, please: a gateway has one mount")
    return out


def _takes_value(flag: str) -> bool:
    """Whether the next word belongs to ``flag``; of a misspelt one as well, so that it is the one that is named."""
    if "=" in flag or flag in ("-h", "--help", "--version", "--check-config"):
        return False
    name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
    field = FuseSettings.model_fields.get(name)
    return field is None or field.annotation not in (bool, bool | None)


def main() -> int:
    """The process; its exit code (2 for a setting that cannot work)."""
    try:
        settings = load(
            FuseSettings,
            arguments(sys.argv[1:]),
            prog="forebay-fuse",
            version=forebay_fuse.__version__,
            description="Mounts a Forebay namespace, read-only. forebay-fuse --probe DIR asks a mount if it is alive.",
        )
    except ConfigError as error:
        sys.stderr.write(f"error: {logs.redact(str(error))}\n")
        return EXIT_CONFIG

    def gateway() -> int:
        return run(lambda: serve(settings))

    if settings.keeper is None or not settings.guard:
        return gateway()
    logs.setup("forebay-fuse", settings.log_level, settings.log_json)
    return Guard(gateway).run()
