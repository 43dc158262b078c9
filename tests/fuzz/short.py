"""A short run of the coverage-guided fuzzer, for the suites of what it is let loose on."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

SECONDS = 4
RUNS_MIN = 100
INPUT_BYTES_MAX = 2000

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: it has no wheel for this platform or this Python",
)


def finds_nothing(target: str, seeds: Iterable[bytes], folder: Path) -> None:
    """Starts from the seeds and asserts that the fuzzer came round often and found nothing."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = [
        f"-max_total_time={SECONDS}",
        f"-max_len={INPUT_BYTES_MAX}",
        "-timeout=20",
        f"-artifact_prefix={folder}/",
    ]
    command = [sys.executable, "-m", "tests.fuzz.run", target, *limits, str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None, done.stderr[-4000:]
    assert int(runs[1]) > RUNS_MIN
