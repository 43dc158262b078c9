"""Marking steps: what is written, by this process and by what it starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forebay.cli.main import app
from forebay.data import FolderFiles, Part, ShardStream, StreamOptions
from forebay.data.tfrecord import frame
from forebay.errors import InvalidRequest
from forebay.steps import Steps, read_spans, report
from forebay.telemetry import waits


def shards(folder: Path) -> ShardStream:
    (folder / "a").write_bytes(b"".join(frame(bytes([n])) for n in range(6)))
    return ShardStream(FolderFiles(folder), ["a"], Part(), StreamOptions(window=1))


def test_steps_of_a_loop_and_of_callbacks_are_the_same(tmp_path: Path) -> None:
    with Steps(tmp_path / "loop") as steps:
        for _ in steps(iter("ab"), images=3, epoch=2):
            pass
    with Steps(tmp_path / "calls") as steps:
        for _ in range(2):
            steps.waiting(epoch=2)
            steps.ready(3)

    for name in ("loop", "calls"):
        spans, is_whole = read_spans(tmp_path / name)
        assert is_whole
        assert [(s.kind, s.epoch, s.count) for s in spans] == [("wait", 2, 3), ("compute", 2, 3)] * 2


def test_nothing_is_recorded_outside(tmp_path: Path) -> None:
    with Steps(tmp_path / "steps"):
        assert waits.is_on()
        assert os.environ[waits.VARIABLE] == str(tmp_path / "steps")

    assert not waits.is_on()
    assert waits.VARIABLE not in os.environ


def test_what_a_stream_reads_is_explained(tmp_path: Path) -> None:
    stream = shards(tmp_path)
    with Steps(tmp_path / "steps") as steps:
        samples = list(steps(stream, images=len))

    found = report(read_spans(tmp_path / "steps")[0]).epochs[0]

    assert samples == [bytes([n]) for n in range(6)]
    assert (found.steps, found.images) == (6, 6)
    assert found.explained > 0.5


def test_a_folder_with_steps_of_another_run_is_refused(tmp_path: Path) -> None:
    with Steps(tmp_path) as steps:
        list(steps(iter("a"), images=1))

    with pytest.raises(InvalidRequest, match="steps of another run"), Steps(tmp_path):
        pass


def test_the_command_reports_and_draws_and_says_what_is_wrong(tmp_path: Path) -> None:
    with Steps(tmp_path / "steps") as steps:
        list(steps(shards(tmp_path), images=1))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.spans").write_bytes(b"nonsense\n")
    runner = CliRunner()

    said = runner.invoke(app, ["report", str(tmp_path / "steps"), "--picture", str(tmp_path / "p.svg")])
    as_json = runner.invoke(app, ["report", str(tmp_path / "steps"), "--json"])
    empty = runner.invoke(app, ["report", str(tmp_path / "none")])
    bad = runner.invoke(app, ["report", str(tmp_path / "bad")])

    assert said.exit_code == 0
    assert "6 images in" in said.output
    assert (tmp_path / "p.svg").read_text().startswith("<svg")
    assert '"images": 6' in as_json.output
    assert empty.exit_code != 0
    assert "there are no steps in" in empty.output
    assert bad.exit_code != 0
    assert "something else than spans" in bad.output
