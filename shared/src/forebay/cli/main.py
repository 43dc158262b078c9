"""The command ``forebay``: its parts are put together here, a line each; the work is elsewhere."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from forebay.cli import bench, checking, keeping, loads, mounts, reading, report, running, settings, sync, workers
from forebay.cli.api import REGISTRY_DEFAULT, Where
from forebay.cli.doctor.command import doctor
from forebay.cli.door import EXIT_CODES, errors
from forebay.cli.options import from_file, path_of, text_of
from forebay.cli.trace.command import trace
from forebay.runtime import logs
from forebay.runtime.config_file import CONFIG_VARIABLE

app = typer.Typer(
    name="forebay",
    help="Distributed training-data cache: object storage in front of the GPUs, as a folder.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ONE_MACHINE, LOOK, KEEP, OPERATE = "One machine", "Look", "What is kept", "Operate"


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"forebay {version('forebay')}\n")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(envvar=CONFIG_VARIABLE, help="YAML file with settings, named as in the environment")
    ] = None,
    cluster_id: Annotated[
        str | None,
        typer.Option(envvar="FOREBAY_CLUSTER_ID", help="name of the cluster (unset: forebay)", show_default=False),
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(envvar="FOREBAY_TLS_CA", help="authorities of a cluster with TLS (PEM)")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="FOREBAY_TLS_CERT", help="our certificate, where callers show one (PEM)")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="FOREBAY_TLS_KEY", help="its private key (PEM)")] = None,
    admin_token_file: Annotated[
        Path | None, typer.Option(envvar="FOREBAY_ADMIN_TOKEN_FILE", help="file with the token for changes")
    ] = None,
    _version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = (
        False
    ),
) -> None:
    with errors():
        said = from_file(config)
    context.obj = Where(
        text_of(said, "REGISTRY") or REGISTRY_DEFAULT,
        cluster_id or text_of(said, "CLUSTER_ID") or "forebay",
        tls_ca or path_of(said, "TLS_CA"),
        tls_cert or path_of(said, "TLS_CERT"),
        tls_key or path_of(said, "TLS_KEY"),
        admin_token_file or path_of(said, "ADMIN_TOKEN_FILE"),
        config,
    )


app.command(rich_help_panel=ONE_MACHINE)(running.up)
app.command(rich_help_panel=ONE_MACHINE)(running.down)
app.command(rich_help_panel=LOOK)(reading.ls)
app.command(rich_help_panel=LOOK)(reading.stat)
app.command(rich_help_panel=LOOK)(reading.cat)
app.command(rich_help_panel=LOOK)(reading.cp)
app.command(rich_help_panel=LOOK)(reading.du)
app.command(rich_help_panel=LOOK)(reading.status)
app.command(rich_help_panel=LOOK)(sync.sync)
app.command(rich_help_panel=LOOK)(report.report)
app.command(rich_help_panel=KEEP)(loads.load)
app.add_typer(loads.app, name="loads", rich_help_panel=KEEP)
app.command(rich_help_panel=KEEP)(keeping.free)
app.command(rich_help_panel=KEEP)(keeping.pin)
app.command(rich_help_panel=KEEP)(keeping.unpin)
app.command(rich_help_panel=KEEP)(keeping.ttl)
app.add_typer(mounts.app, name="mounts", rich_help_panel=OPERATE)
app.add_typer(workers.app, name="workers", rich_help_panel=OPERATE)
app.add_typer(settings.app, name="settings", rich_help_panel=OPERATE)
app.add_typer(checking.app, name="config", rich_help_panel=OPERATE)
app.command(rich_help_panel=OPERATE)(doctor)
app.command(rich_help_panel=OPERATE)(trace)
app.command(rich_help_panel=OPERATE)(bench.bench)


def main() -> None:
    """The entry point."""
    logs.setup("forebay", "error", False)  # what went wrong is said once, by the command
    app()
