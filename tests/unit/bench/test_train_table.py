"""The pure parts of the table of the train bench."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.train_job import padded
from bench.train_places import Came, check
from bench.train_plot import plot, ticks
from bench.train_profiles import PROFILES, STEPS_MIN, step_of
from bench.train_table import Row, lines, merged, read_parts, table


def test_records_of_a_dataset_may_have_the_size_of_the_benchmark(tmp_path: Path) -> None:
    pictures = [b"\xff\xd8" + bytes(n) + b"\xff\xd9" for n in (40_000, 60_000)]

    longer = padded(pictures, 114_660)

    assert sum(map(len, longer)) / 2 == pytest.approx(114_660, abs=10)
    assert all(
        one.startswith(b"\xff\xd8\xff\xfe") and one.endswith(two[2:]) for one, two in zip(longer, pictures, strict=True)
    )
    assert padded(pictures, 100) == pictures


def row(mode: str, count: int, **given: Any) -> Row:
    profile = given.pop("profile", "resnet50-v100")
    return Row(profile, given.pop("knobs", "tuned"), mode, count, 8, 100, 10.0 * count, 11.0, 0.9, 1.0, 1.1, **given)


def test_the_plot_has_a_line_for_each_mode_and_setting_in_both_panels_of_each_profile() -> None:
    found = [row(mode, count) for mode in ("mount", "sdk") for count in (1, 2)]
    found += [row("mount", count, knobs="untuned") for count in (1, 2)] + [row("sdk", 1, profile="resnet50-h100")]

    drawn = ElementTree.fromstring(plot(found))
    kinds = Counter(part.tag.rpartition("}")[2] for part in drawn.iter())
    texts = [part.text for part in drawn.iter() if part.tag.endswith("text")]

    assert kinds["circle"] == 2 * len(found)
    assert kinds["polyline"] == 2 * (3 + 1) + 3  # lines, and three in the legend
    assert {"mount, tuned", "mount, untuned", "sdk, tuned"} <= set(texts)
    assert "resnet50-h100: accelerator utilisation by number of accelerators" in texts


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (2625.0, [0, 1000, 2000]),
        (7355.0, [0, 2000, 4000, 6000]),
        (4.0, [0, 1, 2, 3, 4]),
    ],
)
def test_ticks_are_round_numbers(most: float, expected: list[float]) -> None:
    assert ticks(most) == pytest.approx(expected)


def test_points_measured_anew_replace_those_of_earlier_parts_and_the_table_has_all(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.write_text(lines(merged([row("sdk", 2), row("mount", 2)], [row("mount", 1)])))
    anew = replace(row("sdk", 2), images_per_s=77.0)

    found = merged(read_parts(parts), [anew])

    assert [(r.mode, r.accelerators, r.images_per_s) for r in found] == [
        ("mount", 1, 10.0),
        ("mount", 2, 20.0),
        ("sdk", 2, 77.0),
    ]
    assert table(found).split("\n")[0].split()[:4] == ["profile", "knobs", "mode", "accelerators"]
    assert [line.split()[2] for line in table(found).splitlines()[1:]] == ["mount", "mount", "sdk"]


@pytest.mark.parametrize("name", PROFILES)
def test_a_step_is_scaled_to_the_dataset_at_the_pace_of_the_benchmark(name: str) -> None:
    profile = PROFILES[name]
    small, large = step_of(profile, 8, 2_500), step_of(profile, 1, 1_000_000)

    assert large.batch == profile.batch
    assert large.seconds == pytest.approx(profile.step_s)
    assert small.images / small.seconds == pytest.approx(8 * profile.batch / profile.step_s)
    assert 2_500 // small.images >= STEPS_MIN
    assert step_of(profile, 8, 1).batch == 1


def test_a_mode_whose_bytes_came_from_elsewhere_is_an_error() -> None:
    check("direct-s3", Came(loopback=1.1))
    check("mount", Came())
    with pytest.raises(RuntimeError, match="local-disk"):
        check("local-disk", Came(loopback=1.0))
    assert Came(30.0, 8.0, 4.0).since(Came(10.0, 8.0, 0.0), 20.0) == Came(1.0, 0.0, 0.2)
