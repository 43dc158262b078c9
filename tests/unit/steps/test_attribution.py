"""What each moment of a wait is laid to: spans over one another."""

from __future__ import annotations

import math
from collections import defaultdict

from forebay.steps import attribute, report
from forebay.steps.picture import picture
from forebay.telemetry.waits import Span

LOADER, GATEWAY = "7-0", "gateway"


def seconds(*spans: Span) -> dict[str, float]:
    """By cause, of all waits."""
    found: dict[str, float] = defaultdict(float)
    for stretch in attribute(spans):
        for cause, took_s in stretch.parts.items():
            found[cause.name] += took_s
    return {name: round(took_s, 6) for name, took_s in found.items()}


def test_a_wait_is_laid_to_what_is_under_way_for_the_file_that_is_waited_for() -> None:
    found = seconds(
        Span("wait", 0, 10, count=1),
        Span("stream", 0, 10, by=LOADER),
        Span("read", 0, 9, path="a", by=LOADER),
        Span("metadata", 0, 1, by="7"),
        Span("queueing", 1, 2, by="7"),
        Span("remote", 2, 5, path="/a", by="7"),
        Span("ufs", 5, 9, path="/a", by="7", block="b", member="w"),
        Span("ufs", 0, 10, path="/other", by="7", block="c", member="w"),
    )

    assert found == {"metadata": 1, "queueing": 1, "remote": 3, "ufs": 4, "processing": 1}


def test_two_things_under_way_and_two_busy_loaders_share_a_moment() -> None:
    found = seconds(
        Span("wait", 0, 4),
        Span("stream", 0, 4, by=LOADER),
        Span("stream", 0, 4, by="8-0"),
        Span("given", 2, 4, by="8-0"),
        Span("read", 0, 4, path="a", by=LOADER),
        Span("remote", 0, 4, path="a", by="7"),
        Span("local", 0, 4, path="a", by="7"),
    )

    assert found == {"processing": 1, "remote": 1.5, "local": 1.5}


def test_a_call_to_a_mount_is_what_the_gateway_does_meanwhile_and_fuse_where_it_does_nothing() -> None:
    found = seconds(
        Span("wait", 0, 10),
        Span("read", 0, 10, path="a", by=LOADER),
        Span("mount", 0, 6, path="/mnt/x/a", by="7"),
        Span("remote", 1, 4, path="/x/a", by=GATEWAY),
        Span("ufs", 0, 10, path="/x/b", by=GATEWAY),
        Span("mount", 6, 10, path="/mnt/x/a", by="7"),
    )

    assert found == {"fuse": 3, "remote": 3, "local": 4}  # the second call never reached the gateway


def test_what_nothing_explains_is_unknown_and_before_the_first_loader_it_is_starting() -> None:
    found = seconds(Span("wait", 0, 4, epoch=3), Span("work", 1, 2, by=LOADER), Span("read", 3, 4, path="a", by="9-1"))

    assert found == {"starting": 1, "processing": 1, "unknown": 2}


def test_what_the_last_loader_gave_before_it_ended_is_handed_over_and_another_epoch_starts_anew() -> None:
    found = seconds(
        Span("wait", 0, 4, epoch=3),
        Span("stream", 1, 3, by=LOADER),
        Span("compute", 4, 5, epoch=3),
        Span("wait", 5, 7, epoch=3),
        Span("wait", 8, 9, epoch=4),
    )

    assert found == {"starting": 1 + 1, "processing": 2 + 1 + 2}


def test_a_sample_that_is_out_is_put_together_and_handed_over() -> None:
    found = seconds(Span("wait", 0, 2), Span("stream", 0, 3, by=LOADER), Span("given", 0, 3, by=LOADER))

    assert found == {"processing": 2}


def test_the_report_shares_lost_images_out_and_names_block_and_worker() -> None:
    spans = [
        Span("wait", 0, 3, epoch=1, count=40),
        Span("compute", 3, 4, epoch=1, count=40),
        Span("stream", 0, 4, by=LOADER),
        Span("read", 0, 2, path="a", by=LOADER),
        Span("ufs", 0, 2, path="/a", by="7", block="b1", member="w1"),
    ]

    found = report(spans).epochs[0]
    lost = {one.cause: one.images_per_s for one in found.lost}

    assert (found.epoch, found.images, found.seconds, found.waited_s) == (1, 40, 4, 3)
    assert (found.images_per_s, found.images_per_s_without_waits) == (10, 40)
    assert (lost["ufs"], lost["processing"], lost["unknown"]) == (20, 10, 0)
    assert math.isclose(sum(lost.values()), 30)
    assert found.explained == 1
    assert [(s.path, s.block, s.worker, s.images_per_s) for s in found.slow] == [("/a", "b1", "w1", 20)]


def test_the_picture_has_a_bar_for_each_cause_and_a_lane_for_each_worker() -> None:
    spans = [
        Span("wait", 0, 3, count=40),
        Span("compute", 3, 4, count=40),
        Span("read", 0, 3, path="<a>", by=LOADER),
        Span("ufs", 0, 3, path="<a>", by="7", block="b1", member="worker-<1>"),
    ]

    drawn = picture(report(spans), spans)

    assert drawn.startswith("<svg")
    assert drawn.endswith("</svg>\n")
    assert "ufs: 30.0 images/s" in drawn
    assert "worker-&lt;1&gt;" in drawn
