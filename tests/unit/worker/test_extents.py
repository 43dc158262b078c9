"""Extent arithmetic."""

from __future__ import annotations

import pytest

from forebay_worker.extents import ExtentSet, Geometry


def test_the_last_extent_may_be_short() -> None:
    geometry = Geometry(10, extent_size=4)
    assert geometry.count == 3
    assert geometry.span(2) == (8, 10)
    assert geometry.span(0, 3) == (0, 10)
    assert list(geometry.touched(3, 9)) == [0, 1, 2]
    assert list(geometry.touched(4, 8)) == [1]


def test_present_bytes_end_at_the_first_gap() -> None:
    extents = ExtentSet(Geometry(18, extent_size=4))
    for extent in (0, 1, 3):
        extents.add(extent)
    assert extents.present_until(0, 18) == 8
    assert extents.present_until(5, 7) == 7
    assert extents.present_until(8, 18) == 8
    assert extents.present_until(9, 18) == 9
    assert extents.present_until(13, 18) == 16
    assert extents.missing(range(5)) == [2, 4]
    assert list(extents) == [0, 1, 3]


def test_a_full_set_reaches_to_the_end() -> None:
    extents = ExtentSet(Geometry(18, extent_size=4), full=True)
    assert extents.is_full
    assert extents.present_until(3, 18) == 18
    assert len(extents) == 5


def test_there_is_no_extent_outside_the_block() -> None:
    extents = ExtentSet(Geometry(18, extent_size=4))
    for wrong in (-1, 5):
        with pytest.raises(ValueError, match="of 5"):
            extents.add(wrong)
