"""The doctor at real mounts: one that is well, and ones whose switches were broken on purpose."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from forebay.cli.doctor.block_probes import FILES_MAX
from forebay.cli.doctor.findings import Finding
from forebay.cli.doctor.mount_probes import MountEye, probe_process
from forebay.cli.main import app
from forebay.testing.cluster import Cluster, eventually

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


def change(cluster: Cluster, **settings: object) -> None:
    """PATCHes every worker's settings."""
    for number in range(cluster.local.spec.workers):
        request = urllib.request.Request(
            f"http://{cluster.local.address(f'worker-{number}')}/v1/settings",
            data=orjson.dumps(settings),
            method="PATCH",
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as reply:
            assert reply.status == 200


def test_a_mount_that_is_well_has_no_switch_without_effect(source: Path) -> None:
    for number in range(FILES_MAX):
        (source / f"more-{number}").write_bytes(os.urandom(100_000))
    (source / "late").mkdir()
    (source / "late" / "file").write_bytes(b"behind the files that probes of the whole look at")
    with Cluster.of_folder(source, mounts=1, workers=2) as cluster:
        found = examined(cluster.mount, code=0)
        change(cluster, passive_cache=True)
        passive = examined("--registry", cluster.registry, code=0)
        change(cluster, read_type="NO_CACHE", passive_cache=False)
        uncached = examined("--registry", cluster.registry, "--path", "/late", code=1)

    verdicts = {name: finding["verdict"] for name, finding in found.items()}
    assert {n for n, v in verdicts.items() if v == "cannot tell"} <= {"read_ahead_kib", "http2", "negative_timeout"}
    for name in ("short_circuit", "kernel_cache", "update_access_time", "metadata_cache", "replicas", "clocks"):
        assert verdicts[name] == "ok", found[name]
    for name in ("location_policy", "read_type", "worker_list_refresh_interval", "entry_timeout", "attr_timeout"):
        assert verdicts[name] == "ok", found[name]
    assert verdicts["passive_cache"] == "not set"
    assert passive["passive_cache"]["verdict"] == "ok", passive
    assert uncached["read_type"]["verdict"] == "ok", uncached
    assert "kept nothing" in uncached["read_type"]["saw"]
    assert uncached["replicas"]["verdict"] == "no effect"  # nothing is kept, so no copy is
    assert verdicts["zookeeper"] == "not set"
    assert verdicts["direct_io"] == "not set"


def eventually_late(mount: Path) -> Finding:
    """The finding about the map's age, once it is bad."""
    eye, bad = MountEye.open(mount), list[Finding]()

    def is_late() -> bool:
        found = {finding.switch: finding for finding in probe_process(eye)}["worker_list_refresh_interval"]
        bad.extend([found] if found.verdict == "no effect" else [])
        return bool(bad)

    eventually(is_late, what="the map to be too old", timeout_s=30)
    return bad[0]


def test_copies_that_find_no_room_make_read_type_and_passive_cache_switches_without_effect(source: Path) -> None:
    extra = {"worker": ("--passive-cache",)}
    (source / "file").write_bytes(os.urandom(9_000_000))
    with Cluster.of_folder(source, workers=2, worker_mem_bytes=4 << 20, extra=extra) as cluster:
        found = examined("--registry", cluster.registry, code=1)

    assert found["read_type"]["verdict"] == "no effect", found
    assert "did not keep the block" in found["read_type"]["saw"]
    assert found["passive_cache"]["verdict"] == "no effect", found
    assert "has it room" in found["passive_cache"]["saw"]


def test_directories_of_nobody_and_replicas_without_workers_are_told(source: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    spec = Cluster.spec(
        f"file://{source}",
        short_circuit=False,
        extra={
            "gateway": (
                *("--short-circuit-dirs", str(tmp_path / "nothing")),
                *("--location-policy", "local-first", "--worker-list-refresh-interval", "0.5"),
            ),
            "master": ("--replicas", "2", "--max-age-s", "0"),
        },
    )
    with Cluster(spec, mounts=1) as cluster:
        found = examined(cluster.mount, code=1)
        cluster.pause("master")
        try:
            late = eventually_late(cluster.mount)
        finally:
            cluster.resume("master")

    assert "does not answer" in late.saw
    assert found["worker_list_refresh_interval"]["verdict"] == "ok", found
    assert found["location_policy"]["verdict"] == "no effect"
    assert "no worker of this host was asked" in found["location_policy"]["saw"]
    # the mount's names are to be asked for each time: the kernel may keep none, whatever the gateway was told
    for name in ("entry_timeout", "negative_timeout"):
        assert found[name]["verdict"] == "no effect", found[name]
        assert "max_age" in found[name]["saw"]
    assert found["short_circuit"]["verdict"] == "no effect"
    assert "0 of 1 blocks" in found["short_circuit"]["saw"]
    assert found["passthrough"]["verdict"] == "no effect"
    assert found["replicas"]["verdict"] == "no effect"
    assert "only 1 workers" in found["replicas"]["saw"]


def test_a_page_cache_that_is_bypassed_is_seen_by_the_requests(source: Path) -> None:
    gateway = (
        "--direct-io",
        "--entry-timeout",
        "0",
        "--attr-timeout",
        "0",
        "--negative-timeout",
        "0",
        "--metadata-cache-s",
        "0",
    )
    with Cluster.of_folder(source, mounts=1, extra={"gateway": gateway}) as cluster:
        found = examined(cluster.mount, code=1)

    assert found["direct_io"]["verdict"] == "ok"
    assert found["kernel_cache"]["verdict"] == "not set"
    assert found["passthrough"]["verdict"] == "no effect"
    assert "direct_io" in found["passthrough"]["saw"]
    assert found["metadata_cache"]["verdict"] == "not set"
    assert "asked a master 0 times" not in found["metadata_cache"]["saw"]
    for name in ("entry_timeout", "negative_timeout"):
        assert found[name]["verdict"] == "not set", found[name]
        assert " 0 requests" not in found[name]["saw"]
    assert found["attr_timeout"]["verdict"] == "not set"


def test_a_folder_that_is_no_mount_is_told(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["doctor", str(tmp_path)])

    assert ended.exit_code == 2
    assert "forebay mount" in ended.stderr
