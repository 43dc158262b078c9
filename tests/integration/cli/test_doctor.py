"""The doctor at real mounts: one that is well, and ones whose switches were broken on purpose."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from forebay.cli.main import app
from forebay.testing.cluster import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.fuse]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "file").write_bytes(os.urandom(3_000_000))
    return folder


def examined(*words: str | Path, code: int) -> dict[str, dict[str, Any]]:
    """The findings by switch; the command must end with ``code``."""
    ended = CliRunner().invoke(app, ["doctor", *(str(w) for w in words), "--json"])
    assert ended.exit_code == code, (ended.output, ended.exception)
    return {finding["switch"]: finding for finding in orjson.loads(ended.stdout)}


def test_a_mount_that_is_well_has_no_switch_without_effect(source: Path) -> None:
    with Cluster.of_folder(source, mounts=1, workers=2) as cluster:
        found = examined(cluster.mount, code=0)

    verdicts = {name: finding["verdict"] for name, finding in found.items()}
    assert {n for n, v in verdicts.items() if v == "cannot tell"} <= {"read_ahead_kib", "http2"}
    for name in ("short_circuit", "kernel_cache", "update_access_time", "metadata_cache", "replicas", "clocks"):
        assert verdicts[name] == "ok", found[name]
    assert verdicts["zookeeper"] == "not set"
    assert verdicts["direct_io"] == "not set"


def test_directories_of_nobody_and_replicas_without_workers_are_told(source: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    spec = Cluster.spec(
        f"file://{source}",
        short_circuit=False,
        extra={"gateway": ("--short-circuit-dirs", str(tmp_path / "nothing")), "master": ("--replicas", "2")},
    )
    with Cluster(spec, mounts=1) as cluster:
        found = examined(cluster.mount, code=1)

    assert found["short_circuit"]["verdict"] == "no effect"
    assert "0 of 1 blocks" in found["short_circuit"]["saw"]
    assert found["passthrough"]["verdict"] == "no effect"
    assert found["replicas"]["verdict"] == "no effect"
    assert "only 1 workers" in found["replicas"]["saw"]


def test_a_page_cache_that_is_bypassed_is_seen_by_the_requests(source: Path) -> None:
    gateway = ("--direct-io", "--entry-timeout", "0", "--attr-timeout", "0", "--metadata-cache-s", "0")
    with Cluster.of_folder(source, mounts=1, extra={"gateway": gateway}) as cluster:
        found = examined(cluster.mount, code=1)

    assert found["direct_io"]["verdict"] == "ok"
    assert found["kernel_cache"]["verdict"] == "not set"
    assert found["passthrough"]["verdict"] == "no effect"
    assert "direct_io" in found["passthrough"]["saw"]
    assert found["metadata_cache"]["verdict"] == "not set"
    assert "asked a master 0 times" not in found["metadata_cache"]["saw"]


def test_a_folder_that_is_no_mount_is_told(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["doctor", str(tmp_path)])

    assert ended.exit_code == 2
    assert "forebay mount" in ended.stderr
