"""The pure parts of the train bench."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.figures import Options
from bench.train import check_near
from bench.train_cluster import UNTUNED, flags_of
from bench.train_gain import GAIN_MIN, check_sent, epoch, missing, names, tuned_vs_untuned
from bench.train_job import BATCH, Job, Ran, batches, synthetic, train
from forebay.data import ByteSource, FolderFiles, StreamOptions
from forebay.errors import NotFound
from tests.unit.data.kit import tfrecord_shards


class SlowToOpen(FolderFiles):
    """A folder whose files take time to open."""

    SECONDS = 0.05

    def open(self, path: str) -> ByteSource:
        """As ``Files.open``."""
        time.sleep(self.SECONDS)
        return super().open(path)


def test_flags_of_switches_are_put_together_by_service() -> None:
    flags = flags_of(tuple(UNTUNED))

    assert set(flags) == {"gateway", "worker"}
    assert {"--direct-io", "--no-metadata-cache", "local-first"} <= set(flags["gateway"])
    assert set(flags["worker"]) == {"--passive-cache", "--read-type", "CACHE_PROMOTE"}


def test_bytes_by_source_that_are_more_than_five_points_off_are_an_error() -> None:
    assert check_near(0.21, quick=False) == 0.21
    with pytest.raises(RuntimeError, match="near tier"):
        check_near(0.31, quick=False)


def test_loaders_share_the_shards_without_loss_and_an_error_of_one_is_the_jobs(tmp_path: Path) -> None:
    names = tfrecord_shards(tmp_path, shards=6, records=50)
    began = time.monotonic()

    found = list(batches(FolderFiles(tmp_path), names, StreamOptions(window=1), loaders=3))

    assert [count for count, _ in found] == [BATCH] * 6  # each loader leaves a few that are no whole batch
    assert all(began <= ready_s <= time.monotonic() for _, ready_s in found)
    with pytest.raises(NotFound):
        list(batches(FolderFiles(tmp_path), [*names, "gone"], StreamOptions(window=1), loaders=2))


def test_a_batch_that_is_late_makes_the_accelerator_wait_and_one_that_was_ready_does_not() -> None:
    def given() -> Iterator[tuple[int, float]]:
        yield BATCH, time.monotonic()
        time.sleep(0.05)
        yield BATCH, time.monotonic()
        yield BATCH, 0.0

    ran = train(given(), step_s=0.01)

    assert ran.images == 3 * BATCH
    assert ran.computed_s == pytest.approx(0.03)
    assert ran.seconds >= 0.01 + 0.05 + 0.02
    assert ran.utilisation < 0.4


def test_utilisation_is_the_share_of_time_that_is_computed() -> None:
    began = time.monotonic()
    ran = synthetic(3, 0.01)

    assert ran.images == 3 * BATCH
    assert 0.03 <= ran.seconds <= time.monotonic() - began
    assert ran.utilisation == pytest.approx(0.03 / ran.seconds)
    assert (ran + Ran(50, 1.0, 0.5)).images == 4 * BATCH


PAIRS = {"part": "pairs", "value": 3.9, "tuned": {"images_per_s": 20.0}, "interval": [3.7, 4.1]}


def test_a_figure_that_was_measured_in_parts_is_told_from_all_of_them(tmp_path: Path) -> None:
    switches = [{"part": name, "lost": 0.25, "ratios": [0.75]} for name in names(Options())[1:]]
    options = Options(parts=tmp_path / "parts")
    (tmp_path / "parts").write_text("".join(json.dumps(part) + "\n" for part in [PAIRS, *switches]))

    figure = tuned_vs_untuned(options)  # nothing is missing, so nothing is measured

    assert (figure.value, figure.goal, figure.ok) == (3.9, GAIN_MIN, True)
    assert figure.detail["interval"] == [3.7, 4.1]
    assert figure.detail["lost_by_switch"] == dict.fromkeys(["one_thread", *UNTUNED], 0.25)
    assert figure.detail["not_measured"] == []


def test_what_earlier_runs_have_not_measured_comes_next_the_figure_itself_first() -> None:
    assert missing(Options(), []) == ["pairs", "one_thread", *UNTUNED]
    assert missing(Options(), [PAIRS, {"part": "one_thread"}]) == list(UNTUNED)
    assert missing(Options(quick=True), [PAIRS]) == ["one_thread"]


def test_a_tuned_side_that_was_served_otherwise_than_said_is_an_error() -> None:
    check_sent({"sent_in_datasets": 0.76}, quick=False)
    with pytest.raises(RuntimeError, match=r"sent 1\.50"):
        check_sent({"sent_in_datasets": 1.5}, quick=False)


def test_an_epoch_without_a_pace_is_timed_from_the_call_on(tmp_path: Path) -> None:
    shards = tfrecord_shards(tmp_path, shards=2, records=60)
    made, began = Job(tmp_path, tuple(shards), bytes=1, records=121), time.monotonic()

    ran = epoch(made, SlowToOpen(tmp_path), StreamOptions(window=1), 0)

    assert ran.images == 2 * BATCH
    assert 2 * SlowToOpen.SECONDS <= ran.seconds <= time.monotonic() - began
