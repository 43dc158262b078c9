"""``forebay up`` and ``forebay down``: a cluster whose life follows this command, a job, or another command."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from forebay.cli import jobs, output
from forebay.cli import up as life
from forebay.cli.api import Where
from forebay.cli.cluster import ClusterSpec, LocalCluster, memory_folder
from forebay.cli.door import errors, errors_console
from forebay.cli.options import where
from forebay.cli.sources import SourceOptions, mount_setting, root_setting
from forebay.errors import ConfigError
from forebay.runtime import parse_size
from forebay.runtime.cgroup import memory_limit_bytes
from forebay.runtime.config_file import CONFIG_VARIABLE

MEM_SHARE = 0.25
SHM_SHARE = 0.8
"""A container's /dev/shm may be small."""


def up(  # noqa: PLR0913, PLR0917  # each parameter is an option of the command line
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="s3://bucket/prefix, or a folder")],
    command: Annotated[
        list[str] | None, typer.Argument(help="after --: a command that the cluster lives for", metavar="[-- CMD...]")
    ] = None,
    mount: Annotated[
        Path | None, typer.Option("--mount", "-m", help="an empty directory to show the source in", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="worker processes")] = 1,
    mem: Annotated[
        str | None, typer.Option(help="memory for blocks, all workers together (unset: 25% of what the cgroup grants)")
    ] = None,
    load: Annotated[bool, typer.Option("--load", help="fill the cache first, as far as it fits")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="return when it is ready; 'forebay down' ends it")] = (
        False
    ),
    registry: Annotated[str, typer.Option(help="embedded, or zookeeper://host:port/path")] = "embedded",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port of the master; 0 takes any")] = 0,
    endpoint: Annotated[str | None, typer.Option(envvar="AWS_ENDPOINT_URL", help="S3 endpoint")] = None,
    region: Annotated[str | None, typer.Option(help="S3 region")] = None,
    profile: Annotated[str, typer.Option(help="credentials profile")] = "default",
    path_style: Annotated[bool, typer.Option(help="S3 path style addresses")] = False,
    anonymous: Annotated[bool, typer.Option(help="S3 without credentials")] = False,
    short_circuit: Annotated[bool, typer.Option(help="the gateway reads blocks of this host in place")] = True,
    allow_other: Annotated[bool | None, typer.Option(help="other users may read (unset: yes as root)")] = None,
    keeper: Annotated[bool, typer.Option(help="a process that keeps the mount when the gateway dies")] = True,
) -> None:
    """Cache SOURCE in memory and show it as a folder, until Ctrl-C, 'forebay down', or the end of CMD.

    With [bold]-- CMD[/bold] it runs CMD when everything is ready (FOREBAY_REGISTRY names the cluster), reports what was
    read from where, takes everything down, and ends with CMD's exit code.
    """
    console = errors_console()
    code = 0
    with errors(console):
        if detach:
            if command:
                raise ConfigError("--detach", "a command has the cluster for itself; leave out one of them")
            jobs.detach(sys.argv[1:], console)
            return
        uri = life.source_uri(source)
        if mount is not None:
            life.check_mount_dir(mount, uri)
        elif not command:
            raise ConfigError("--mount", "is needed without a command: an empty directory to show the source in")
        options = SourceOptions(endpoint, region, profile, path_style, anonymous)
        others = os.geteuid() == 0 if allow_other is None else allow_other
        spec = ClusterSpec(
            mounts=(mount_setting("/", uri, options),),
            ufs_roots=(root_setting(uri, options),),
            workers=workers,
            worker_mem_bytes=_memory(mem) // workers,
            mount_dirs=(mount,) if mount is not None else (),
            registry=registry,
            short_circuit=short_circuit,
            keeper=keeper,
            extra={"gateway": ("--allow-other" if others else "--no-allow-other",)},
            environ=_environ(where(context, None)),
            port=port,
        )
        code = _run(spec, console, command or [], load=load)
    if code:
        raise typer.Exit(code)


def down(
    mount: Annotated[
        Path | None, typer.Argument(help="the mount directory of the cluster; all of yours if left out")
    ] = (None),
) -> None:
    """End clusters that 'forebay up' runs on this machine, and wait until nothing of them is left."""
    with errors():
        ended = jobs.end(mount)
        output.say(f"ended: {', '.join(ended)}" if ended else "no cluster of yours runs here")


def _environ(found: Where) -> dict[str, str]:
    """The settings' file is for the services as well."""
    return {CONFIG_VARIABLE: str(found.config.resolve())} if found.config is not None else {}


def _memory(text: str | None) -> int:
    if text is None:
        return int(min(memory_limit_bytes() * MEM_SHARE, shutil.disk_usage(memory_folder()).total * SHM_SHARE))
    try:
        return parse_size(text)
    except ValueError as e:
        raise ConfigError("--mem", str(e)) from e


def _run(spec: ClusterSpec, console: Console, command: list[str], *, load: bool) -> int:
    """Start, show, watch (or run the command), and take down whatever happens; the command's exit code."""
    life.stop_on_signals()
    cluster = LocalCluster(spec)
    code = 0

    def say(text: str) -> None:
        console.print(escape(text))

    try:
        with console.status("starting"):
            cluster.prepare()
            jobs.note(cluster)
            cluster.start()
        if load:
            jobs.load_all(cluster, say)
        if command:
            code = jobs.run_command(cluster, command, say)
            jobs.report(cluster, console)
        else:
            _summary(spec, cluster, console)
            jobs.note(cluster, ready=True)
            life.watch(cluster, say)
    except KeyboardInterrupt:
        console.print("stopping")
        code = 130 if command else 0
    finally:
        life.ignore_signals()
        killed = cluster.stop()
        if killed:
            console.print(f"had to be killed: {', '.join(killed)}")
    return code


def _summary(spec: ClusterSpec, cluster: LocalCluster, console: Console) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for directory in spec.mount_dirs:
        table.add_row("mount", str(directory))
    table.add_row("memory", f"{spec.workers} x {spec.worker_mem_bytes >> 20} MiB in {cluster.places.shm}")
    table.add_row("logs", str(cluster.places.logs))
    for name, child in cluster.children.items():
        table.add_row(name, cluster.address(name) if child.spec.socket is None else str(child.spec.socket))
    console.print(table)
    for line in life.curl_lines(cluster):
        console.print(line, style="dim", soft_wrap=True)
    console.print("Ctrl-C stops and leaves nothing behind.")
