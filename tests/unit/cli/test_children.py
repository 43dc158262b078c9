"""Child processes: logs within bounds, stopped by pid."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from forebay.cli.children import LOG_BYTES_KEPT, LOG_BYTES_MAX, Child, ChildSpec, get
from forebay.testing.cluster import eventually, parse_metrics
from forebay.testing.tools import free_ports


def child(tmp_path: Path, module: str, *args: str, port: int = 1) -> Child:
    return Child(ChildSpec("server", module, args, port), logs=tmp_path, env=os.environ)


def test_a_child_serves_is_stopped_and_can_be_started_again(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    server = child(tmp_path, "http.server", str(port), "--bind", "127.0.0.1", port=port)
    for _ in range(2):
        server.start()
        eventually(lambda: get(port, "/") is not None, what="the server")
        assert server.running
        server.stop(5.0)
        assert server.returncode == -signal.SIGTERM
        assert server.pid is not None
        assert not Path(f"/proc/{server.pid}").exists()


def test_a_paused_child_is_stopped_as_well(tmp_path: Path) -> None:
    server = child(tmp_path, "http.server", "0")
    server.start()
    server.signal(signal.SIGSTOP)
    assert server.stop(5.0)


def test_a_log_that_grows_is_cut_at_a_line_and_keeps_its_end(tmp_path: Path) -> None:
    quiet = child(tmp_path, "this")
    line = b"x" * 99 + b"\n"
    quiet.log.write_bytes(line * (LOG_BYTES_MAX // 100 + 1) + b"the end\n")
    quiet.trim()
    size = quiet.log.stat().st_size
    assert LOG_BYTES_KEPT - 100 <= size <= LOG_BYTES_KEPT
    assert quiet.log.read_bytes().startswith(line)
    assert quiet.tail(1) == ["the end"]


def test_metrics_are_read_by_name_and_labels() -> None:
    text = b'# HELP a x\na_total{source="mem"} 3.0\nb 1e+06\n'
    assert parse_metrics(text) == {'a_total{source="mem"}': 3.0, "b": 1e6}
