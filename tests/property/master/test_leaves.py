"""Leaves against a dictionary: whatever the order in which names come, and wherever a page begins."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given
from hypothesis import strategies as st

from forebay.contracts.leaves import decode_leaf
from forebay_master import leaves
from forebay_master.database import LEAVES
from forebay_master.entries import DIRECTORY, FILE, Row

NAMES = st.text(st.sampled_from("ab-.é"), min_size=1, max_size=4)
ROWS = st.builds(
    lambda name, kind, size: Row(name, kind, 0 if kind else size, 7, 0o555, "" if kind else f"f{size}"),
    NAMES,
    st.sampled_from([FILE, DIRECTORY]),
    st.integers(0, 3),
)
PAGES = st.lists(st.lists(ROWS, max_size=40), max_size=8)


@contextmanager
def store() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:")
    db.executescript(LEAVES)
    yield db
    db.close()


def put_all(db: sqlite3.Connection, listing: int, pages: list[list[Row]]) -> dict[str, Row]:
    model: dict[str, Row] = {}
    for page in pages:
        leaves.put(db, listing, page, size=3)
        for row in page:
            if row.kind == DIRECTORY or model.get(row.name, row).kind != DIRECTORY:
                model[row.name] = row
    return model


@given(PAGES, NAMES | st.just(""), st.integers(1, 50))
def test_a_page_is_what_lies_behind_a_name_in_byte_order(pages: list[list[Row]], after: str, limit: int) -> None:
    with store() as db:
        leaves.put(db, 2, [Row("another", FILE, 1, 1, 1, "f")])
        model = put_all(db, 1, pages)
        behind = [model[name] for name in sorted(model) if name > after]
        assert list(leaves.rows(db, 1, after, limit)) == behind[:limit]
        assert leaves.count(db, 1) == len(model)
        packed = leaves.packed(db, 1, after, limit)
        given_rows = [row for body in packed.leaves for row in leaves.rows_of(decode_leaf(body))]
        assert given_rows == behind[:limit]
        assert (packed.count, packed.more) == (len(given_rows), len(behind) > limit)
        assert not given_rows or packed.last == given_rows[-1].name


@given(PAGES, NAMES)
def test_a_name_and_the_next_directory_are_found(pages: list[list[Row]], name: str) -> None:
    with store() as db:
        model = put_all(db, 1, pages)
        assert leaves.find(db, 1, name) == model.get(name)
        later = sorted(each for each, row in model.items() if row.kind == DIRECTORY and each > name)
        assert leaves.next_directory(db, 1, name) == (later[0] if later else None)


@given(PAGES, PAGES)
def test_two_listings_differ_by_what_their_names_differ_by(old: list[list[Row]], new: list[list[Row]]) -> None:
    with store() as db:
        before, after = put_all(db, 1, old), put_all(db, 2, old + new)
        pairs = {each.name: (b, a) for b, a in leaves.pairs(db, 1, 2) if b != a and (each := b or a) is not None}
        assert pairs == {
            name: (before.get(name), after.get(name))
            for name in before.keys() | after.keys()
            if before.get(name) != after.get(name)
        }
