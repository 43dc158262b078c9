"""The launchers of real servers: they start, come back with their data, and leave nothing behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from forebay.testing.cluster import eventually
from forebay.testing.s3 import AwkwardS3, S3Server
from forebay.testing.tools import Process, ToolMissing, free_ports, is_listening, tool
from forebay.testing.zookeeper import ZooKeeperServer


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.zookeeper
def test_zookeeper_starts_pauses_restarts_at_its_port_and_goes() -> None:
    with ZooKeeperServer() as server:
        assert server.is_serving()
        server.pause()
        assert not server.is_serving()
        server.resume()
        assert server.is_serving()
        server.restart()
        assert server.is_serving()
        server.pause()  # a paused server must go as well
    assert not is_listening(server.port)


@pytest.mark.s3
def test_the_s3_servers_hold_what_is_put_and_leave_no_process_and_no_folder() -> None:
    with AwkwardS3() as server:
        server.admin.make_bucket("bucket")
        server.admin.put("bucket", "a/b", b"content")
        assert (server.root / "bucket" / "a" / "b").read_bytes() == b"content"
        assert server.admin.get("bucket", "a/b") == b"content"
        assert server.admin.get_range("bucket", "a/b", 2, 3) == b"nte"
    assert not server.root.parent.exists()
    assert not is_listening(int(server.endpoint.rpartition(":")[2]))


@pytest.mark.s3
@pytest.mark.slow
def test_a_killed_s3_server_has_lost_nothing_when_it_is_back(tmp_path: Path) -> None:
    with S3Server(folder=tmp_path) as server:
        server.make_bucket("bucket")
        server.put("bucket", "a", b"content")
        server.stop()
        assert not server.is_serving()
        server.start()
        assert server.admin.get("bucket", "a") == b"content"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tool_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_TOOLS", str(tmp_path))
    with pytest.raises(ToolMissing, match=r"weed is not at .*make setup"):
        tool("weed")


def test_a_process_that_ends_at_once_is_reported_with_its_words(tmp_path: Path) -> None:
    process = Process(["/bin/sh", "-c", "echo no such luck; exit 3"], folder=tmp_path)
    with pytest.raises(RuntimeError, match=r"(?s)ended with 3.*no such luck"):
        process.wait_ready(lambda: False, 10)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    process = Process(["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], folder=tmp_path)
    process.wait_ready(lambda: "up" in process.tail(), 10)
    process.stop(timeout_s=0.3)
    assert not process.running
    assert not is_running(process.pid)


def test_free_ports_are_free_and_different() -> None:
    ports = free_ports(5, also_above=10_000)
    assert len(set(ports)) == 5
    assert not any(is_listening(port) for port in [*ports, *(port + 10_000 for port in ports)])


def test_a_process_that_was_paused_stands_still_and_goes_on_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    loop = f"while :; do echo >> {count}; done"
    process = Process(["sh", "-c", loop], folder=tmp_path)
    try:
        eventually(count.exists)
        process.pause()
        paused = count.stat().st_size
        time.sleep(0.05)
        still = count.stat().st_size
        process.signal(signal.SIGCONT)
        eventually(lambda: count.stat().st_size > still)
    finally:
        process.stop(kill=True)
    assert still == paused
