"""Wire versions: each works with the one before and the one after, and with no other."""

from __future__ import annotations

import pytest

from forebay.contracts import WIRE_VERSION
from forebay.contracts.versions import ACCEPTED, accepted_text, is_newer, is_taken, neighbours


def test_a_version_works_with_those_next_to_it_and_there_is_none_before_the_first() -> None:
    assert list(neighbours(1)) == [1, 2]
    assert list(neighbours(7)) == [6, 7, 8]
    assert neighbours(WIRE_VERSION) == ACCEPTED


def test_neighbours_take_each_other() -> None:
    for ours in range(1, 6):
        for theirs in range(1, 6):
            assert (theirs in neighbours(ours)) == (ours in neighbours(theirs)) == (abs(ours - theirs) <= 1)


@pytest.mark.parametrize("text", ["", "0", "-1", "+1", "01", " 1", "1.0", "one", str(WIRE_VERSION + 2), "9" * 5000])
def test_a_header_that_names_no_neighbour_is_not_taken(text: str) -> None:
    assert not is_taken(text)
    assert not is_newer(text)


def test_a_request_without_a_version_is_taken_and_is_not_newer() -> None:
    assert is_taken(None)
    assert not is_newer(None)


def test_only_the_version_after_ours_is_newer() -> None:
    assert [is_newer(str(version)) for version in ACCEPTED] == [version > WIRE_VERSION for version in ACCEPTED]
    assert all(is_taken(str(version)) for version in ACCEPTED)


def test_the_versions_we_take_are_told() -> None:
    assert str(WIRE_VERSION) in accepted_text()
    assert str(WIRE_VERSION + 1) in accepted_text()
