"""A gateway that cannot mount names the setting, exits with 2, and leaves nothing; without root it mounts by helper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster
from tests.unprivileged import open_up

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


def start(*args: str | Path, path: str | None = None, before: str = "") -> subprocess.CompletedProcess[str]:
    """A gateway that must end by itself."""
    command = [sys.executable, "-m", "forebay_fuse", *map(str, args)]
    env = {**os.environ, **({"PATH": path} if path is not None else {})}
    if before:
        command = ["/usr/bin/setpriv", *before.split(), *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says why."""
    assert done.returncode == 2, done
    return done.stderr.strip().splitlines()[-1]


def test_a_missing_mount_point_is_named(tmp_path: Path) -> None:
    said = refusal(start(tmp_path / "none"))
    assert "mountpoint" in said
    assert "create the directory" in said


def test_a_file_or_a_full_directory_is_no_mount_point(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "no directory" in refusal(start(tmp_path / "file"))
    assert "not empty" in refusal(start(tmp_path))


def test_a_mount_point_that_is_taken_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with Cluster.of_folder(tmp_path, mounts=1) as cluster:
        assert "already" in refusal(start(cluster.mount, "--registry", cluster.registry))
        assert os.listdir(cluster.mount) == ["file"]


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--umask", "9"), "octal"),
        (("--mont-point", "x"), "did you mean --mountpoint"),
        (("--entry-timeout", "-1"), "--entry-timeout"),
        (("--short-circuit", "maybe"), "'off'"),
        (("--host", "0.0.0.0"), "cluster_key_file"),
    ],
)
def test_a_bad_setting_is_named_as_written(tmp_path: Path, args: tuple[str, ...], word: str) -> None:
    assert word in refusal(start(tmp_path, *args))


def test_an_unreachable_registry_is_said_and_nothing_is_mounted(tmp_path: Path) -> None:
    done = start(tmp_path, "--registry", "http://127.0.0.1:9", "--registry-timeout", "1")
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert not os.path.ismount(tmp_path)


def test_without_root_and_without_fusermount3_the_way_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    target = tmp_path / "mount"
    target.mkdir()
    open_up(tmp_path)
    with Cluster.of_folder(tmp_path) as cluster:
        done = start(
            target, "--registry", cluster.registry, path="/nonexistent", before="--reuid=65534 --clear-groups"
        )  # fmt: skip
    assert "fusermount3" in refusal(done)


UNPRIVILEGED = """
set -e
mknod "$1/fuse" c 10 229; chmod 666 "$1/fuse"
mount --bind "$1/fuse" /dev/fuse      # in a mount namespace of our own: the machine's device keeps its mode
chown 65534 "$1/mount"
setpriv --reuid=65534 --regid=65534 --clear-groups "$2" -m forebay_fuse "$1/mount" --registry "$3" --no-allow-other &
pid=$!
for _ in $(seq 300); do grep -q " $1/mount " /proc/self/mounts && break; kill -0 $pid; sleep 0.1; done
setpriv --reuid=65534 --regid=65534 --clear-groups cat "$1/mount/file"
ls "$1/mount" >/dev/null 2>&1 && echo "root may look" || true
kill $pid; wait $pid
grep " $1/mount " /proc/self/mounts && exit 9
exit 0
"""


def test_a_user_without_rights_mounts_by_fusermount3(tmp_path: Path) -> None:
    # given a cluster, and a folder that a user without rights reaches
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("unprivileged\n")
    open_up(tmp_path)
    (tmp_path / "mount").mkdir()
    with Cluster.of_folder(tmp_path / "source") as cluster:
        # when that user mounts and reads
        command = ["unshare", "-m", "--propagation", "private", "bash", "-c", UNPRIVILEGED, "bash"]
        done = subprocess.run(
            [*command, tmp_path, sys.executable, cluster.registry],
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
    # then it works, for that user alone, and the mount is gone at the end
    assert done.returncode == 0, done.stderr
    assert done.stdout == "unprivileged\n"
