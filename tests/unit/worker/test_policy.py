"""LRU and FIFO."""

from __future__ import annotations

from forebay_worker.policies import Lru
from forebay_worker.policies.slots import Resident


def nobody(block: str) -> bool:
    return False


def order(policy: Lru) -> list[str]:
    return policy.victims(1 << 40, 0.0, busy=nobody)


def test_a_read_makes_a_block_the_youngest() -> None:
    lru = Lru()
    for name in "abc":
        lru.inserted(name, 4096, "m1", 0.0)
    lru.touched("a", 1.0)
    lru.touched("stranger", 1.0)
    assert order(lru) == ["b", "c", "a"]
    lru.removed("c")
    lru.removed("c")
    assert order(lru) == ["b", "a"]
    assert len(lru) == 2


def test_victims_are_as_many_as_are_wanted_and_never_busy() -> None:
    lru = Lru()
    for name in "abc":
        lru.inserted(name, 5000, "m1", 0.0)
    assert lru.victims(8192, 0.0, busy=nobody) == ["a"]
    assert lru.victims(8193, 0.0, busy=lambda block: block == "a") == ["b", "c"]
    assert lru.victims(0, 0.0, busy=nobody) == []


def test_a_block_found_at_start_adopts_the_dataset_it_is_read_through() -> None:
    lru = Lru()
    lru.inserted("a", 4096, "", 0.0)
    lru.touched("a", 1.0, "m1")
    lru.touched("a", 2.0, "m2")
    assert list(lru) == [Resident("a", 4096, "m1")]
