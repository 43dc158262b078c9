"""``make demo SMALL=1``: the whole path in seconds, and what it says when it can't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.fuse]


def demo(**environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.demo"],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


def test_the_small_demo_reads_every_file_right_and_leaves_nothing() -> None:
    before = set(Path("/dev/shm").glob("forebay-*"))
    done = demo(SMALL="1")
    assert done.returncode == 0, done.stderr
    figure = last_line(done)
    assert figure["bench"] == "demo"
    assert figure["ok"] is True
    assert figure["detail"]["checksums_right"] is True
    assert figure["detail"]["bytes_by_source"]["epoch 1 (cold)"]["under_store"] == figure["detail"]["bytes"]
    assert not [line for line in Path("/proc/mounts").read_text().splitlines() if "forebay-demo" in line]
    assert not [p for p in set(Path("/dev/shm").glob("forebay-*")) - before if not any(p.iterdir())]


def test_the_users_own_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    for n in range(3):
        (tmp_path / "a b" / f"ö{n}").write_bytes(os.urandom(100_000 * n))
    done = demo(SMALL="1", SOURCE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert last_line(done)["detail"]["bytes"] == 300_000


@pytest.mark.parametrize("environ", [{"SOURCE": "/nowhere/at/all"}, {"REGISTRY": "etcd"}])
def test_what_cannot_work_is_said_in_one_line(environ: dict[str, str]) -> None:
    done = demo(SMALL="1", **environ)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
