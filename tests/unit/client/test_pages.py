"""The page cache: in time, bounded, and aware of walks."""

from __future__ import annotations

import pytest

from forebay.client.pages import PageCache
from forebay.contracts import Entry, ListReply


def listing(*names: str, valid_s: float | None = 30.0) -> ListReply:
    entries = tuple(Entry(name=name, kind="dir", inode=1, mode=0o555, mtime_ns=0) for name in names)
    return ListReply(entries=entries, mount_id="m", next_page_token=None, synced_at_s=1.0, valid_s=valid_s)


def cache(entries_max: int = 100, expire_s: float = 60.0) -> PageCache:
    return PageCache(entries_max=entries_max, expire_s=expire_s)


def test_a_page_is_given_until_its_time_is_over_with_the_time_that_is_left() -> None:
    pages = cache()
    pages.put("/d", None, 10, listing("a"), 100.0)
    held = pages.get("/d", None, 10, 110.0)
    assert held is not None
    assert (held.entries[0].name, held.valid_s) == ("a", 20.0)
    assert pages.get("/d", None, 11, 110.0) is None
    assert pages.get("/d", "t", 10, 110.0) is None
    assert pages.get("/d", None, 10, 130.0) is None
    pages.validate()
    assert pages.entries == 0


def test_what_is_left_is_the_masters_word_and_not_the_caches_own_time() -> None:
    pages = cache(expire_s=10.0)
    pages.put("/d", None, 10, listing("a"), 100.0)
    held = pages.get("/d", None, 10, 109.0)
    assert held is not None
    assert held.valid_s == 21.0
    assert pages.get("/d", None, 10, 110.0) is None


@pytest.mark.parametrize(
    ("valid_s", "expire_s", "is_held"), [(0.0, 60.0, False), (None, 60.0, True), (30.0, 0.0, False)]
)
def test_what_may_not_be_kept_is_not(valid_s: float | None, expire_s: float, is_held: bool) -> None:
    pages = cache(expire_s=expire_s)
    pages.put("/d", None, 10, listing("a", valid_s=valid_s), 0.0)
    assert (pages.get("/d", None, 10, 0.0) is not None) == is_held


def test_the_oldest_pages_go_first_and_a_page_above_the_limit_is_not_kept() -> None:
    pages = cache(entries_max=6)
    for path in ("/a", "/b", "/c"):
        pages.put(path, None, 10, listing("x"), 0.0)
    pages.get("/a", None, 10, 0.0)
    pages.put("/d", None, 10, listing("x"), 0.0)
    pages.put("/e", None, 10, listing(*"abcdef"), 0.0)
    pages.validate()
    assert [path for path in ("/a", "/b", "/c", "/d", "/e") if pages.get(path, None, 10, 0.0)] == ["/a", "/c", "/d"]


def test_a_change_drops_the_listing_it_is_in_and_its_own() -> None:
    pages = cache()
    for path in ("/", "/d", "/d/e", "/x"):
        pages.put(path, None, 10, listing("x"), 0.0)
    pages.forget("/d/e")
    assert [path for path in ("/", "/d", "/d/e", "/x") if pages.get(path, None, 10, 0.0)] == ["/", "/x"]
    pages.put("/d/e", None, 10, listing("x"), 0.0)
    pages.forget_below("/d")
    pages.validate()
    assert [path for path in ("/", "/d", "/d/e", "/x") if pages.get(path, None, 10, 0.0)] == ["/x"]


def test_the_second_directory_of_a_listed_parent_is_a_walk() -> None:
    pages = cache()
    assert not pages.is_walk("/p/a", 10, 0.0)
    pages.put("/p", None, 10, listing("a", "b", "c"), 0.0)
    assert [pages.is_walk(path, 10, 1.0) for path in ("/p/a", "/p/a", "/p/b", "/p/c")] == [False, False, True, True]
    assert not pages.is_walk("/q/a", 10, 1.0)
    assert not pages.is_walk("/p/d", 10, 31.0)


def test_a_sweep_lets_go_of_pages_whose_time_is_over_though_nobody_asks_for_them() -> None:
    pages = cache(expire_s=10.0)
    pages.put("/old", None, 10, listing("a"), 100.0)
    pages.put("/new", None, 10, listing("b"), 105.0)

    pages.sweep(110.0)

    pages.validate()
    assert pages.entries == len(listing("b").entries) + 1
    assert pages.get("/new", None, 10, 110.0) is not None
