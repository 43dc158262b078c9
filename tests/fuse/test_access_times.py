"""``update_access_time`` through real mounts: what it shows and what it costs, and that off it costs nothing."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

FILES = [f"{number:02}" for number in range(40)]
OLD_S = 1_600_000_000
ROUTE = "/v1/files:accessed"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Old files."""
    for name in FILES:
        (tmp_path / name).write_bytes(name.encode())
        os.utime(tmp_path / name, (OLD_S, OLD_S))
    return tmp_path


@pytest.fixture(params=[True, False], ids=["on", "off"])
def is_on(request: pytest.FixtureRequest) -> bool:
    """The switch."""
    return bool(request.param)


@pytest.fixture
def cluster(source: Path, is_on: bool) -> Iterator[Cluster]:
    """One mount whose kernel may keep attributes for an hour."""
    switch = "--update-access-time" if is_on else "--no-update-access-time"
    with Cluster.of_folder(source, mounts=1, extra={"gateway": (switch, "--attr-timeout", "3600")}) as cluster:
        yield cluster


def reports(cluster: Cluster) -> float:
    """Requests of this kind that the master answered."""
    counts = cluster.metrics("master").items()
    return sum(
        n for name, n in counts if name.startswith("http_server_request_duration_seconds_count") and ROUTE in name
    )


def told(cluster: Cluster) -> float:
    """Access times that masters took."""
    return cluster.metrics("gateway").get("forebay_client_accesses_told_total", 0.0)


def test_reading_changes_the_access_time_by_a_few_reports_where_it_is_on_and_nothing_where_it_is_off(
    cluster: Cluster, is_on: bool
) -> None:
    mount = cluster.mount
    assert {os.stat(mount / name).st_atime for name in FILES} == {OLD_S}
    began_s = time.time()

    # when every file but the last is read three times, and looked at
    for _ in range(3):
        for name in FILES[:-1]:
            assert (mount / name).read_bytes() == name.encode()
    shown = [os.stat(mount / name).st_atime for name in FILES]
    listed = subprocess.run(
        ["find", str(mount), "-type", "f", "-newerat", f"@{began_s - 1}", "-printf", "%f\n"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.split()  # fmt: skip

    if not is_on:
        assert (set(shown), listed, reports(cluster)) == ({OLD_S}, [], 0)
        return
    assert sorted(listed) == FILES[:-1]
    assert shown[-1] == OLD_S
    assert min(shown[:-1]) >= began_s - 0.001
    assert {os.stat(mount / name).st_mtime for name in FILES} == {OLD_S}

    # then the master is told of it in few requests, and tells it to the next gateway
    eventually(lambda: told(cluster) >= len(FILES) - 1, what="a report", timeout_s=60)
    assert 1 <= reports(cluster) <= 1 + (time.time() - began_s) / 4
    cluster.kill("gateway")
    cluster.restart("gateway")
    assert [entry.stat().st_atime for entry in sorted(os.scandir(mount), key=lambda e: e.name)] == pytest.approx(shown)
    assert os.stat(mount / FILES[0]).st_atime == pytest.approx(shown[0])
