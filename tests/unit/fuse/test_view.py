"""What the kernel is told that it may keep."""

from __future__ import annotations

import pytest

from forebay_fuse.protocol.replies import timeouts
from forebay_fuse.view import GRAIN_S, View

VIEW = View(entry_timeout_s=100.0, attr_timeout_s=200.0)


@pytest.mark.parametrize(
    ("kind", "valid_s", "entry_s", "attr_s"),
    [
        ("file", None, 100.0, 200.0),
        ("dir", None, 100.0, 200.0),
        ("file", 30.0, 30.0, 200.0),
        ("dir", 30.0, 30.0, 30.0),
        ("dir", 150.0, 100.0, 150.0),
        ("dir", 0.0, 0.0, 0.0),
    ],
)
def test_names_are_kept_for_the_least_of_the_switch_and_the_masters_word(
    kind: str, valid_s: float | None, entry_s: float, attr_s: float
) -> None:
    assert VIEW.times(kind, valid_s) == timeouts(entry_s, attr_s)


def test_the_masters_word_is_told_in_steps_and_never_longer_than_it_is() -> None:
    assert VIEW.times("dir", 30.0 + GRAIN_S * 0.99) == timeouts(30.0, 30.0)
    assert VIEW.times("dir", GRAIN_S * 0.99) == timeouts(0.0, 0.0)
