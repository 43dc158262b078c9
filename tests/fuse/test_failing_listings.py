"""A folder that cannot be listed, through a real mount over a real S3 server: an error and never an empty folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from forebay.cli.sources import SourceOptions
from forebay.testing.cluster import Cluster, eventually
from forebay.testing.faults import FaultProxy, Faults
from forebay.testing.s3 import S3Server, credentials_env

pytestmark = [pytest.mark.fuse, pytest.mark.s3, pytest.mark.slow]

BUCKET = "failing-listings"
NAMES = [f"{number:03}" for number in range(50)]
TIMEOUT_S = 60


def ls(folder: Path) -> subprocess.CompletedProcess[str]:
    """A program that knows nothing of us, and does not hang for ever."""
    return subprocess.run(["ls", "-1", str(folder)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def lists(folder: Path) -> list[str] | None:
    """The names, or nothing if that failed."""
    try:
        return os.listdir(folder)
    except OSError:
        return None


def test_a_folder_whose_listing_fails_is_eio_until_it_is_listed_whole(s3_server: S3Server) -> None:
    s3_server.make_bucket(BUCKET)
    s3_server.put_many(BUCKET, {f"{folder}/{name}": b"x" for folder in ("known", "new") for name in NAMES})
    with FaultProxy(s3_server.endpoint.removeprefix("http://")) as proxy:
        options = SourceOptions(endpoint=f"http://{proxy.address}", region="us-east-1", path_style=True)
        spec = Cluster.spec(
            f"s3://{BUCKET}",
            options=options,
            environ=credentials_env(),
            extra={"master": ("--max-age-s", "immutable")},
        )
        with Cluster(spec, mounts=1) as cluster:
            assert os.listdir(cluster.mount / "known") == NAMES
            assert os.listdir(cluster.mount) == ["known", "new"]

            # when the under store is away
            proxy.faults = Faults(refusing=True)
            proxy.cut()
            failed = ls(cluster.mount / "new")

            # then programs are told, what is known is still listed, and the folder is whole when it is back
            assert failed.returncode != 0
            assert (failed.stdout, "Input/output error" in failed.stderr) == ("", True), failed.stderr
            assert os.listdir(cluster.mount / "known") == NAMES
            proxy.faults = Faults()
            eventually(lambda: lists(cluster.mount / "new") is not None, what="a listing", timeout_s=TIMEOUT_S)
            assert os.listdir(cluster.mount / "new") == NAMES
