"""The command: what was found, switch by switch, and an exit code that a script can believe."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from forebay.cli import output
from forebay.cli.api import Api, connected
from forebay.cli.doctor import judges
from forebay.cli.doctor.block_probes import probe_blocks
from forebay.cli.doctor.cluster_probes import probe_cluster
from forebay.cli.doctor.findings import Finding, is_sound
from forebay.cli.doctor.mount_probes import MountEye, probe_mount
from forebay.cli.door import EXIT_FAILED, errors
from forebay.cli.options import Json, Registry, where
from forebay.telemetry import Metrics, Telemetry, Tracer


def doctor(
    context: typer.Context,
    mount: Annotated[Path | None, typer.Argument(help="a mount on this host; without one: the cluster alone")] = None,
    file: Annotated[Path | None, typer.Option(help="file of the mount to read (unset: the first that will do)")] = None,
    path: Annotated[str, typer.Option(help="file or directory of the namespace to read through the SDK")] = "/",
    as_json: Json = False,
    registry: Registry = None,
) -> None:
    """Prove every switch by a measured effect. Exit code 1 if one is set and has none.

    It reads one file several times, through the mount and through the SDK, and changes nothing but what is cached.
    """
    with errors():
        findings = [judges.kernel(os.uname().release)]
        address, settings = registry, None
        if mount is not None:
            settings = MountEye.open(mount).settings
            address = registry or str(settings["registry"])
            findings += probe_mount(mount, file)
        metrics = Metrics()

        async def work(api: Api) -> list[Finding]:
            return [*await probe_cluster(api, metrics, path), *await probe_blocks(api, settings, path)]

        telemetry = Telemetry("forebay-doctor", metrics, Tracer(None, 0.0))
        cluster = asyncio.run(connected(where(context, address), work, telemetry))
        findings += [f for f in cluster if f.switch not in {seen.switch for seen in findings}]
        show(findings, as_json=as_json)
    if not is_sound(findings):
        raise typer.Exit(EXIT_FAILED)


def show(findings: list[Finding], *, as_json: bool) -> None:
    """A line each."""
    if as_json:
        output.show_json([asdict(finding) for finding in findings])
    else:
        output.show_table(["switch", "verdict", "what was seen"], [(f.switch, f.verdict, f.saw) for f in findings])
