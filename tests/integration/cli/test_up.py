"""``forebay up`` as a user runs it: it works, it says what is wrong, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forebay.testing.cluster import eventually
from forebay.testing.s3 import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.fuse]


class Up:
    """A running command with its output in a file."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.output = folder / "up.log"
        with self.output.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "forebay.cli", "up", *args], stdout=sink, stderr=subprocess.STDOUT
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def address(self, name: str) -> str:
        found = re.search(rf"^{name}\s+(127\.0\.0\.1:\d+)", self.text, re.MULTILINE)
        assert found is not None, self.text
        return found[1]

    def children(self) -> list[int]:
        return [int(p) for p in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def folders(self) -> list[Path]:
        return [Path(p) for p in re.findall(r"(?:/tmp|/dev/shm)/forebay-[\w-]+", self.text)]


@contextmanager
def running(folder: Path, *args: str) -> Iterator[Up]:
    up = Up(folder, *args)
    try:
        eventually(lambda: "Ctrl-C" in up.text or up.process.poll() is not None, timeout_s=60, what="forebay up")
        assert up.process.poll() is None, up.text
        yield up
    finally:
        if up.process.poll() is None:
            up.process.terminate()
            up.process.wait(30)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(os.urandom(300_000))
    (folder / "empty").touch()
    return folder


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    (tmp_path / "mount").mkdir()
    return tmp_path / "mount"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_folder_is_shown_until_it_is_stopped_and_nothing_is_left(
    tmp_path: Path, source: Path, mount: Path, number: signal.Signals
) -> None:
    with running(tmp_path, str(source), "--mount", str(mount), "--mem", "64MiB", "--workers", "2") as up:
        assert sorted(p.name for p in mount.iterdir()) == ["empty", "sub"]
        assert (mount / "sub" / "file").read_bytes() == (source / "sub" / "file").read_bytes()
        children, folders = up.children(), up.folders()
        assert len(children) == 5  # master, two workers, keeper, gateway
        assert len(folders) >= 2
        up.process.send_signal(number)
        assert up.process.wait(30) == 0, up.text
        assert not os.path.ismount(mount)
        assert list(mount.iterdir()) == []
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
        assert not any(folder.exists() for folder in folders)


def test_a_worker_that_dies_is_started_again_and_reads_go_on(tmp_path: Path, source: Path, mount: Path) -> None:
    with running(tmp_path, str(source), "--mount", str(mount), "--mem", "64MiB") as up:
        worker = next(pid for pid in up.children() if b"forebay_worker" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(worker, signal.SIGKILL)
        assert (mount / "sub" / "file").read_bytes() == (source / "sub" / "file").read_bytes()
        assert "worker-0 ended with SIGKILL" in up.text
        assert "started again" in up.text


def test_the_small_commands_look_at_the_same_cluster(tmp_path: Path, source: Path, mount: Path) -> None:
    def run(*args: str) -> bytes:
        command = [sys.executable, "-m", "forebay.cli", *args, "--registry", f"http://{up.address('master')}"]
        return subprocess.run(command, check=True, capture_output=True, timeout=30).stdout

    with running(tmp_path, str(source), "--mount", str(mount), "--mem", "64MiB") as up:
        assert run("ls", "/").split() == [b"0", b"empty", b"-", b"sub/"]
        assert run("cat", "/sub/file") == (source / "sub" / "file").read_bytes()
        assert b"300000" in run("stat", "/sub/file")
        assert b"worker-0" in run("status")


def test_a_cluster_lives_for_a_command_and_ends_with_its_code(tmp_path: Path, source: Path, mount: Path) -> None:
    script = f"forebay ls / && cmp '{mount}/sub/file' '{source}/sub/file' && exit 7"
    command = [sys.executable, "-m", "forebay.cli", "up", str(source), "-m", str(mount), "--mem", "64MiB", "--load"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    ended = subprocess.run(
        [*command, "--", "sh", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        timeout=90,
        check=False,
    )

    assert ended.returncode == 7, ended.stderr
    assert b"sub/" in ended.stdout
    assert b"load succeeded" in ended.stderr
    assert b" from " in ended.stderr or b"past them" in ended.stderr
    assert not os.path.ismount(mount)


def test_a_detached_cluster_runs_until_it_is_taken_down(tmp_path: Path, source: Path, mount: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "forebay.cli", *args]
        return subprocess.run(command, capture_output=True, timeout=120, check=False, env=environ)

    environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    up = run("up", str(source), "--mount", str(mount), "--mem", "64MiB", "--detach")
    try:
        assert up.returncode == 0, up.stderr
        assert (mount / "sub" / "file").read_bytes() == (source / "sub" / "file").read_bytes()
        assert run("down", str(tmp_path)).returncode == 2
    finally:
        down = run("down", str(mount))
    assert down.returncode == 0, down.stderr
    assert str(mount).encode() in down.stdout
    assert not os.path.ismount(mount)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert b"no cluster" in run("down").stdout


def failed(tmp_path: Path, *args: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "forebay.cli", "up", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        text = process.communicate(timeout=60)[0].decode()
        assert list(Path("/dev/shm").glob(f"forebay-{process.pid}-*")) == []
    return process.returncode, text


def test_bad_input_is_named_and_leaves_nothing_behind(tmp_path: Path, source: Path, mount: Path) -> None:
    cases = {
        "SOURCE": (str(tmp_path / "nowhere"), "--mount", str(mount)),
        "does not exist": (str(source), "--mount", str(tmp_path / "nowhere")),
        "not empty": (str(source), "--mount", str(tmp_path)),
        "--mem": (str(source), "--mount", str(mount), "--mem", "lots"),
        "registry": (str(source), "--mount", str(mount), "--registry", "ftp://x"),
        "bucket": ("s3://Not A Bucket", "--mount", str(mount)),
    }
    for word, args in cases.items():
        code, text = failed(tmp_path, *args)
        assert code == 2, (args, text)
        assert word in text, (args, text)
    assert not os.path.ismount(mount)


@pytest.mark.s3
def test_a_bucket_that_is_not_there_or_may_not_be_listed_is_refused_in_the_masters_words(
    tmp_path: Path, mount: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.make_bucket("up-closed")
    options = ("--mount", str(mount), "--endpoint", s3_server.endpoint, "--region", "us-east-1", "--path-style")
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    code, text = failed(tmp_path, "s3://up-nowhere", *options)
    assert code == 2, text
    assert "mount" in text
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY-wrong-secret")
    code, text = failed(tmp_path, "s3://up-closed", *options)
    assert code == 2, text
    assert "CANARY" not in text


def test_a_taken_port_is_named(tmp_path: Path, source: Path, mount: Path) -> None:
    with running(tmp_path, str(source), "--mount", str(mount), "--mem", "64MiB") as up:
        other = tmp_path / "other"
        other.mkdir()
        port = up.address("master").rpartition(":")[2]
        code, text = failed(tmp_path, str(source), "--mount", str(other), "--port", port)
        assert code == 2
        assert port in text
