"""Names of many files at once are those of each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forebay.contracts import identity

UFS = "0123456789abcdef" * 2
TEXT = st.text(max_size=40) | st.integers(1000, 1100).map("x".__mul__) | st.integers(330, 350).map("\u20ac".__mul__)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=20))
def test_names_in_bulk_are_the_names_of_each_whatever_their_length(names: list[tuple[str, str]]) -> None:
    keys = [key for key, _ in names]

    assert identity.inode_numbers("/m", keys) == [identity.inode_number("/m", key) for key in keys]
    assert identity.version_ids(UFS, names) == [identity.version_id(UFS, key, tag) for key, tag in names]
