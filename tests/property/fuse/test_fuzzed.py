"""The coverage-guided fuzzer in short: it starts from one good example of every request, and finds nothing.

For longer, and to keep what it finds: ``python -m tests.fuzz.run session -max_total_time=600 some/folder``.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz import targets
from tests.unit.fuse.doubles import FakeClient

SECONDS = 4
RUNS_MIN = 100
INPUT_BYTES_MAX = 2000
HAS_ATHERIS = importlib.util.find_spec("atheris") is not None


@pytest.fixture
def session() -> Iterator[targets.Session]:
    """A target, and the end of its loop."""
    target = targets.Session()
    yield target
    target.close()


def test_every_example_is_taken(session: targets.Session) -> None:
    for data in targets.seeds()["protocol"]:
        targets.protocol(data)
    for data in targets.seeds()["session"]:
        session(data)


def test_an_exception_of_ours_in_a_handler_is_found() -> None:
    # given a client with a bug, which the gateway would answer with EIO and survive
    class Broken(FakeClient):
        async def lookup(self, path: str) -> None:  # type: ignore[override]  # that is the bug
            raise ValueError("a bug")

    target = targets.Session(lambda local: Broken(targets.FILES, is_local=local))
    try:
        with pytest.raises(AssertionError, match="a bug"):
            target(targets.seeds()["session"][0])
    finally:
        target.close()


@pytest.mark.skipif(not HAS_ATHERIS, reason="atheris has no wheel for this platform")
@pytest.mark.parametrize("target", sorted(targets.TARGETS))
def test_the_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    # given
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, data in enumerate(targets.seeds()[target]):
        (corpus / f"seed-{number}").write_bytes(data)
    # when
    limits = [
        f"-max_total_time={SECONDS}",
        f"-max_len={INPUT_BYTES_MAX}",
        "-timeout=20",
        f"-artifact_prefix={tmp_path}/",
    ]
    command = [sys.executable, "-m", "tests.fuzz.run", target, *limits, str(corpus)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    # then
    assert done.returncode == 0, done.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None, done.stderr[-4000:]
    assert int(runs[1]) > RUNS_MIN
