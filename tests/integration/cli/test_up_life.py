"""``forebay up`` under a rough user: signals while it stops, services that die, a mount that is taken away."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from forebay.cli.children import probe
from forebay.testing.cluster import eventually
from tests.integration.cli.kit import UP, Running, assert_nothing_left, children_of, shm_of, started

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


@dataclass
class Up:
    """A command that shows a folder at ``mount``."""

    running: Running
    mount: Path
    pids: dict[str, int]

    def same_as(self, source: Path) -> bool:
        """Whether the mount shows what the source has."""
        try:
            return digests(self.mount) == digests(source)
        except OSError:
            return False

    def kill(self, name: str) -> None:
        """``kill -9`` of a service that runs, and what the command says to it."""
        words, before = f"{name} ended with SIGKILL", self.running.said
        eventually(lambda: name in children_of(self.running.child.pid), what=name)
        os.kill(children_of(self.running.child.pid)[name], signal.SIGKILL)
        eventually(lambda: self.running.said.count(words) > before.count(words), what=words)

    def port_of(self, name: str) -> int:
        """Where a service listens, as the command says."""
        found = re.search(rf"^{name}\s+127\.0\.0\.1:(\d+)", self.running.said, re.MULTILINE)
        assert found is not None, self.running.said
        return int(found[1])

    def assert_gone(self) -> None:
        """Nothing of it is left, and the mount directory is an empty directory again."""
        assert_nothing_left(self.running, pids=list(self.pids.values()), mounts=[self.mount])
        assert list(self.mount.iterdir()) == []


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of all files."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small folder."""
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.bin").write_bytes(os.urandom(3_000_000))
    (folder / "deep" / "b with space.bin").write_bytes(os.urandom(10))
    return folder


@contextmanager
def mounted(tmp_path: Path, source: Path) -> Iterator[Up]:
    """The command, ready."""
    mount = tmp_path / "mount"
    mount.mkdir()
    with started([UP, "up", source, "--mount", mount, "--mem", "64MiB"], tmp_path) as running:
        running.says("Ctrl-C stops")
        yield Up(running, mount, children_of(running.child.pid))


def test_signals_while_it_stops_change_nothing(tmp_path: Path, source: Path) -> None:
    with mounted(tmp_path, source) as up:
        # given a cluster that says where everything is
        assert set(up.pids) == {"master", "worker-0", "keeper", "gateway"}
        (shm,) = shm_of(up.running.child.pid)
        for word in (up.mount, "1 x 64 MiB", shm, up.running.tmp, "/metrics", "/v1/status"):
            assert str(word) in up.running.said
        assert up.same_as(source)
        with (up.mount / "a.bin").open("rb") as file:
            # when it is stopped with a file open, and the user loses patience
            assert file.read(1)
            up.running.signal(signal.SIGINT)
            up.running.says("stopping")
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                up.running.signal(number)
        # then it cleans up all the same
        ended = up.running.ended()
        assert "Traceback" not in ended.said
        assert "had to be killed" not in ended.said
        up.assert_gone()


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path, source: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    with started([UP, "up", source, "--mount", mount, "--mem", "64MiB"], tmp_path) as running:
        eventually(lambda: len(children_of(running.child.pid)) >= 2, what="the first services", timeout_s=30)
        pids = list(children_of(running.child.pid).values())
        running.signal(signal.SIGINT)
        ended = running.ended()
        assert "Traceback" not in ended.said
        assert_nothing_left(running, pids=pids, mounts=[mount])


def test_master_gateway_and_keeper_are_started_again_when_they_die(tmp_path: Path, source: Path) -> None:
    with mounted(tmp_path, source) as up:
        up.kill("gateway")
        up.running.says("gateway is started again")
        assert up.same_as(source)  # it waits for the next gateway: the keeper has the mount
        up.kill("keeper")
        up.running.says("keeper is started again")
        assert up.same_as(source)
        up.kill("master")
        up.running.says("master is started again")
        eventually(lambda: probe(up.port_of("master")) == 200, what="the master", timeout_s=30)
        assert up.same_as(source)
        up.pids |= {f"{k} again": v for k, v in children_of(up.running.child.pid).items()}
        up.running.signal(signal.SIGTERM)
        assert up.running.ended().code == 0
        up.assert_gone()


def test_a_service_that_keeps_dying_ends_the_command_with_the_end_of_its_log(tmp_path: Path, source: Path) -> None:
    with mounted(tmp_path, source) as up:
        for _ in range(4):
            up.kill("worker-0")
        ended = up.running.ended()
        assert ended.code == 1
        assert "worker-0 ended 4 times within a minute; the end of its log:" in ended.said
        assert "Traceback" not in ended.said
        up.assert_gone()


def test_a_mount_that_is_taken_away_from_outside_ends_the_command(tmp_path: Path, source: Path) -> None:
    with mounted(tmp_path, source) as up:
        subprocess.run(["umount", up.mount], check=True, timeout=20)
        ended = up.running.ended()
        assert ended.code == 1
        assert "error: the mount was taken away from outside" in ended.said
        up.assert_gone()


def test_its_sudden_death_takes_the_services_and_the_mount_along(tmp_path: Path, source: Path) -> None:
    with mounted(tmp_path, source) as up:
        folders = shm_of(up.running.child.pid)
        up.running.signal(signal.SIGKILL)
        up.running.ended()
        try:
            pids = up.pids.values()
            eventually(lambda: not any(Path(f"/proc/{p}").exists() for p in pids), what="their end", timeout_s=30)
            assert not os.path.ismount(up.mount)
        finally:
            for folder in folders:  # kill -9 leaves its folders, and nothing else; the next command sweeps them
                shutil.rmtree(folder, ignore_errors=True)
