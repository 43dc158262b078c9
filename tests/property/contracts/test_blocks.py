"""The data route's query survives any text; garbage never raises anything but ``InvalidRequest``."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from forebay.contracts import BlockTarget
from forebay.contracts.blocks import block_query, parse_block_query, parse_range
from forebay.errors import InvalidRequest, RangeNotSatisfiable

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(words, words, words, st.integers(0, 2**62), st.integers(0, 2**40))
def test_every_target_reads_back(mount_id: str, key: str, fingerprint: str, size: int, index: int) -> None:
    target = BlockTarget(mount_id=mount_id, key=key, size=size, fingerprint=fingerprint, index=index)
    assert parse_block_query(block_query(target)) == target


@given(st.text(max_size=200))
def test_garbage_is_refused_by_name(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        parse_block_query(text)
    with contextlib.suppress(InvalidRequest, RangeNotSatisfiable):
        parse_range(text, 100)
