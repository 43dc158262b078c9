"""The command ``forebay``: what is asked on the command line, in words; the work is elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from forebay.cli import look, up
from forebay.cli.cluster import ClusterSpec, LocalCluster, memory_folder
from forebay.cli.look import Where
from forebay.cli.sources import SourceOptions, mount_setting, root_setting
from forebay.errors import ConfigError, ForebayError
from forebay.runtime import logs, parse_size
from forebay.runtime.cgroup import memory_limit_bytes

MEM_SHARE = 0.25
SHM_SHARE = 0.8
"""A container's /dev/shm may be small."""

EXIT_CONFIG, EXIT_FAILED = 2, 1

app = typer.Typer(
    name="forebay",
    help="Distributed training-data cache: object storage in front of the GPUs, as a folder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Registry = Annotated[
    str, typer.Option(envvar="FOREBAY_REGISTRY", help="http://host:port of a master, or zookeeper://host:port/path")
]
REGISTRY_DEFAULT = "http://127.0.0.1:7070"


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"forebay {version('forebay')}\n")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    cluster_id: Annotated[str, typer.Option(envvar="FOREBAY_CLUSTER_ID", help="name of the cluster")] = "forebay",
    tls_ca: Annotated[
        Path | None, typer.Option(envvar="FOREBAY_TLS_CA", help="authorities of a cluster with TLS (PEM)")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="FOREBAY_TLS_CERT", help="our certificate, where callers show one (PEM)")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="FOREBAY_TLS_KEY", help="its private key (PEM)")] = None,
    _version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = (
        False
    ),
) -> None:
    context.obj = Where("", cluster_id, tls_ca, tls_cert, tls_key)


def _where(context: typer.Context, registry: str) -> Where:
    found: Where = context.obj
    return replace(found, registry=registry)


@app.command(name="up")
def up_(  # noqa: PLR0913, PLR0917  # each parameter is an option of the command line
    source: Annotated[str, typer.Argument(help="s3://bucket/prefix, or a folder")],
    mount: Annotated[Path, typer.Option("--mount", "-m", help="an empty directory to show the source in")],
    workers: Annotated[int, typer.Option(min=1, max=64, help="worker processes")] = 1,
    mem: Annotated[
        str | None, typer.Option(help="memory for blocks, all workers together [25% of what the cgroup grants]")
    ] = None,
    registry: Annotated[str, typer.Option(help="embedded, or zookeeper://host:port/path")] = "embedded",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port of the master; 0 takes any")] = 0,
    endpoint: Annotated[str | None, typer.Option(envvar="AWS_ENDPOINT_URL", help="S3 endpoint")] = None,
    region: Annotated[str | None, typer.Option(help="S3 region")] = None,
    profile: Annotated[str, typer.Option(help="credentials profile")] = "default",
    path_style: Annotated[bool, typer.Option(help="S3 path style addresses")] = False,
    anonymous: Annotated[bool, typer.Option(help="S3 without credentials")] = False,
    short_circuit: Annotated[bool, typer.Option(help="the gateway reads blocks of this host in place")] = True,
    allow_other: Annotated[bool | None, typer.Option(help="other users may read [as root: yes]")] = None,
    keeper: Annotated[bool, typer.Option(help="a process that keeps the mount when the gateway dies")] = True,
) -> None:
    """Cache SOURCE in memory and show it as a folder, until Ctrl-C."""
    console = Console(stderr=True, highlight=False)
    with _errors(console):
        uri = up.source_uri(source)
        up.check_mount_dir(mount, uri)
        options = SourceOptions(endpoint, region, profile, path_style, anonymous)
        others = os.geteuid() == 0 if allow_other is None else allow_other
        spec = ClusterSpec(
            mounts=(mount_setting("/", uri, options),),
            ufs_roots=(root_setting(uri, options),),
            workers=workers,
            worker_mem_bytes=_memory(mem) // workers,
            mount_dirs=(mount,),
            registry=registry,
            short_circuit=short_circuit,
            keeper=keeper,
            extra={"gateway": ("--allow-other" if others else "--no-allow-other",)},
            port=port,
        )
        _run(spec, console)


def _memory(text: str | None) -> int:
    if text is None:
        return int(min(memory_limit_bytes() * MEM_SHARE, shutil.disk_usage(memory_folder()).total * SHM_SHARE))
    try:
        return parse_size(text)
    except ValueError as e:
        raise ConfigError("--mem", str(e)) from e


def _run(spec: ClusterSpec, console: Console) -> None:
    """Start, show, watch, and take down whatever happens."""
    up.stop_on_signals()
    cluster = LocalCluster(spec)
    try:
        with console.status("starting"):
            cluster.prepare()
            cluster.start()
        _summary(spec, cluster, console)
        up.watch(cluster, lambda text: console.print(escape(text)))
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        up.ignore_signals()
        killed = cluster.stop()
        if killed:
            console.print(f"had to be killed: {', '.join(killed)}")


def _summary(spec: ClusterSpec, cluster: LocalCluster, console: Console) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for directory in spec.mount_dirs:
        table.add_row("mount", str(directory))
    table.add_row("memory", f"{spec.workers} x {spec.worker_mem_bytes >> 20} MiB in {cluster.places.shm}")
    table.add_row("logs", str(cluster.places.logs))
    for name, child in cluster.children.items():
        table.add_row(name, cluster.address(name) if child.spec.socket is None else str(child.spec.socket))
    console.print(table)
    for line in up.curl_lines(cluster):
        console.print(line, style="dim", soft_wrap=True)
    console.print("Ctrl-C stops and leaves nothing behind.")


@contextlib.contextmanager
def _errors(console: Console) -> Iterator[None]:
    try:
        yield
    except ConfigError as e:
        console.print(f"error: {escape(logs.redact(str(e)))}", soft_wrap=True)
        raise typer.Exit(EXIT_CONFIG) from e
    except ForebayError as e:
        console.print(f"error: {escape(logs.redact(e.message))}", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED) from e


@app.command()
def ls(
    context: typer.Context, path: Annotated[str, typer.Argument()] = "/", registry: Registry = REGISTRY_DEFAULT
) -> None:
    """List a directory of the namespace: size and name."""
    with _errors(Console(stderr=True)):
        look.list_directory(_where(context, registry), path, sys.stdout)


@app.command()
def stat(context: typer.Context, path: str, registry: Registry = REGISTRY_DEFAULT) -> None:
    """Attributes and layout of a path, as JSON."""
    with _errors(Console(stderr=True)):
        look.show_entry(_where(context, registry), path, sys.stdout)


@app.command()
def cat(context: typer.Context, path: str, registry: Registry = REGISTRY_DEFAULT) -> None:
    """Write a file's bytes to standard output."""
    with _errors(Console(stderr=True)):
        look.copy_file(_where(context, registry), path, sys.stdout.buffer)


@app.command()
def sync(
    context: typer.Context,
    path: str,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="every directory below PATH that is known, too")
    ] = False,
    registry: Registry = REGISTRY_DEFAULT,
) -> None:
    """Ask the under store about PATH now, whatever the consistency class says."""
    with _errors(Console(stderr=True)):
        look.sync_path(_where(context, registry), path, sys.stdout, recursive=recursive)


@app.command()
def status(context: typer.Context, registry: Registry = REGISTRY_DEFAULT) -> None:
    """The members of the cluster map, as JSON lines."""
    with _errors(Console(stderr=True)):
        look.show_members(_where(context, registry), sys.stdout)


def main() -> None:
    """The entry point."""
    app()
