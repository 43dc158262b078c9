"""LRU."""

from __future__ import annotations

from forebay_worker.policy import Lru


def test_a_read_makes_a_block_the_youngest() -> None:
    lru = Lru()
    for name in "abc":
        lru.added(name)
    lru.read("a")
    lru.read("stranger")
    assert list(lru.victims()) == ["b", "c", "a"]
    lru.removed("c")
    lru.removed("c")
    assert list(lru.victims()) == ["b", "a"]
    assert len(lru) == 2
