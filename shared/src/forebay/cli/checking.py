"""``forebay config check``: would the services take this file? Each is asked itself, without starting it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from forebay.cli import output
from forebay.cli.door import errors
from forebay.cli.options import from_file
from forebay.errors import ConfigError

app = typer.Typer(help="Settings' files (YAML).", no_args_is_help=True)

SERVICES = {"FOREBAY_MASTER_": "forebay_master", "FOREBAY_WORKER_": "forebay_worker", "FOREBAY_FUSE_": "forebay_fuse"}
CHECK_S = 30.0


def meant(names: Iterable[str]) -> list[str]:
    """The services that a file speaks to: those it names, or master and worker if it has shared names only. Pure."""
    found = [module for prefix, module in SERVICES.items() if any(name.startswith(prefix) for name in names)]
    return found or ["forebay_master", "forebay_worker"]


def refusal(module: str, file: Path) -> str | None:
    """What a service says against the file; ``None``: nothing."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FOREBAY_")}
    command = [sys.executable, "-P", "-m", module, "--config", str(file), "--check-config"]
    ended = subprocess.run(command, env=environ, capture_output=True, timeout=CHECK_S, check=False)
    if ended.returncode == 0:
        return None
    said = ended.stderr.decode(errors="replace").strip().splitlines() or [f"ended with status {ended.returncode}"]
    return said[-1].removeprefix("error: ")


@app.command()
def check(file: Annotated[Path, typer.Argument(help="a settings' file, as for --config")]) -> None:
    """Check a settings' file against every service that it speaks to, and start nothing."""
    with errors():
        names = from_file(file)
        for module in meant(names):
            name = module.replace("_", "-")
            if importlib.util.find_spec(module) is None:
                output.note(f"{name} is not installed here; its settings are not checked")
            elif (said := refusal(module, file)) is not None:
                raise ConfigError(str(file), f"{name} refuses it: {said}")
            else:
                output.say(f"{name}: good")
