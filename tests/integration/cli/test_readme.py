"""The README's curl lines, run word for word but for ports, ids and the source's address."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.slow]
README = (Path(__file__).parents[3] / "README.md").read_text()
CURLRC = "fail\nsilent\nshow-error\nmax-time = 30\n"


def curl_lines(first: str, end: str) -> list[str]:
    """The curl commands between two headings, those over several lines joined."""
    section = README[README.index(f"## {first}\n") : README.index(f"## {end}\n")]
    return re.findall(r"^curl (?:.*\\\n)*.*$", section, re.MULTILINE)


class Shell:
    """Runs lines in a folder, with what stands for something replaced."""

    def __init__(self, folder: Path, stands_for: Mapping[str, str]) -> None:
        (folder / ".curlrc").write_text(CURLRC)
        self.stands_for = dict(stands_for)
        self._folder = folder

    def run(self, line: str) -> bytes:
        """What a line says; it must succeed."""
        for name, value in self.stands_for.items():
            line = line.replace(name, value)
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self._folder,
            env={**os.environ, "CURL_HOME": str(self._folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr.decode()}"
        return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the README's lines name."""
    source = tmp_path / "source"
    for name in ("train/part-00000.tfrecord", "train/part-00001.tfrecord", "imagenet/val/one"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(secrets.token_bytes(100_000))
    return source


def address(cluster: Cluster, name: str) -> str:
    return f"127.0.0.1:{cluster.local.children[name].spec.port}"


def test_the_lines_for_one_machine_say_what_is_there(folder: Path, tmp_path: Path) -> None:
    lines = curl_lines("Use it on one machine", "The command line")
    with Cluster.of_folder(folder) as cluster:
        shell = Shell(tmp_path, {"127.0.0.1:7070": address(cluster, "master")})
        said = {line.split("7070")[1].split()[0]: shell.run(line) for line in lines}

    assert len(said) == len(lines) == 6
    assert {member["member_id"] for member in orjson.loads(said["/v1/cluster"])["members"]} == {"master", "worker-0"}
    assert [mount["path"] for mount in orjson.loads(said["/v1/mounts"])["mounts"]] == ["/"]
    assert orjson.loads(said["/v1/status"])["ready"]
    assert b"forebay_" in said["/metrics"]
    assert [entry["name"] for entry in orjson.loads(said["/v1/list"])["entries"]] == [
        "part-00000.tfrecord",
        "part-00001.tfrecord",
    ]
    assert orjson.loads(said["/v1/lookup"])["entry"]["size"] == 100_000


def test_the_lines_for_loads_start_show_follow_and_end_one(folder: Path, tmp_path: Path) -> None:
    lines = curl_lines("The command line", "Run the services")
    with Cluster.of_folder(folder) as cluster:
        shell = Shell(tmp_path, {"127.0.0.1:7070": address(cluster, "master")})
        start, show, follow, remove = lines
        started = orjson.loads(shell.run(start))
        shell.stands_for["LOAD_ID"] = started["load_id"]
        assert [load["load_id"] for load in orjson.loads(shell.run(show))["loads"]] == [started["load_id"]]
        events = shell.run(follow)
        assert b"succeeded" in events.splitlines()[-2] + events.splitlines()[-1]
        # one that cannot end, for the line that cancels
        cluster.pause("worker-0")
        shell.stands_for["LOAD_ID"] = orjson.loads(shell.run(start))["load_id"]
        try:
            assert orjson.loads(shell.run(remove))["state"] == "cancelled"
        finally:
            cluster.resume("worker-0")


@pytest.fixture
def services(folder: Path, tmp_path: Path) -> Iterator[Cluster]:
    """A master that wants the admin token, without mounts, and a worker."""
    (tmp_path / "admin.token").write_text(secrets.token_hex(32))
    (tmp_path / "admin.token").chmod(0o600)
    extra = {"master": ("--admin-token-file", str(tmp_path / "admin.token"))}
    spec = Cluster.spec(f"file://{folder}", extra=extra)
    # memory that is promised only: more than README's lines reserve
    with Cluster(replace(spec, mounts=(), worker_mem_bytes=8 << 30)) as cluster:
        yield cluster


def test_the_lines_for_the_services_mount_change_settings_free_and_unmount(
    services: Cluster, folder: Path, tmp_path: Path
) -> None:
    mount, unmount, *settings = curl_lines("Run the services", "Run it with Docker")
    assert "DELETE" in unmount
    assert len(settings) == 5
    master, worker = address(services, "master"), address(services, "worker-0")
    stands_for = {"127.0.0.1:7070": master, "127.0.0.1:7071": worker, "s3://bucket": f"file://{folder}"}
    shell = Shell(tmp_path, stands_for)
    shell.stands_for["MOUNT_ID"] = mount_id = orjson.loads(shell.run(mount))["mount_id"]
    eventually(lambda: services.status("worker-0")["detail"]["mounts"] == 1, what="the mount at the worker")
    said = [shell.run(line) for line in settings]
    shown = orjson.loads(shell.run(settings[0]))
    assert "lru" in str(shown)
    assert mount_id in str(shown)
    assert all(said)
    assert orjson.loads(shell.run(unmount))["mount_id"] == mount_id
