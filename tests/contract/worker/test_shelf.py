"""What a tier directory promises the store, on the in-memory fake and on the real directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.worker.shelves import LENGTHS, DirectoryShelf, MemoryShelf, Shelf, content, pieces, put

A, B = "aa" + "0" * 30, "aa" + "1" * 30
MakeShelf = Callable[[], Shelf]


@pytest.fixture(params=["fake", "directory"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    if request.param == "fake":
        yield MemoryShelf()
        return
    real = DirectoryShelf(tmp_path / "tier")
    yield real
    assert real.stray() == set()
    real.let_go()


@pytest.mark.parametrize("length", LENGTHS)
def test_a_sealed_block_is_read_back_also_after_restarts(shelf: Shelf, length: int) -> None:
    put(shelf, A, length)
    assert shelf.read(A) == content(A, length)
    for boot in ("boot-0", "boot-0", "boot-1"):
        shelf.restart(boot)
        assert (shelf.complete(), shelf.present(A)) in ({(frozenset({A}), None)}, ({A}, None))
        assert shelf.read(A) == content(A, length)


def test_a_filling_block_is_not_readable_as_complete(shelf: Shelf) -> None:
    shelf.begin(A, 300)
    shelf.land(A, 2, pieces(A, 300)[2])
    assert shelf.complete() == set()
    assert shelf.read(A) is None
    assert shelf.present(A) == {2}


@pytest.mark.parametrize("length", [200, 300])
def test_a_half_filled_block_goes_on_after_a_restart(shelf: Shelf, length: int) -> None:
    parts = pieces(A, length)
    shelf.begin(A, length)
    for extent in (3, 1):
        shelf.land(A, extent, parts[extent])
    shelf.restart("boot-0")
    assert shelf.present(A) == {1, 3}
    for extent in set(range(len(parts))) - {1, 3}:
        shelf.land(A, extent, parts[extent])
    shelf.seal(A)
    assert shelf.read(A) == content(A, length)


def test_a_block_without_an_extent_is_not_kept(shelf: Shelf) -> None:
    for length in LENGTHS:
        shelf.begin(f"aa{length:030}", length)
    shelf.restart("boot-0")
    assert [shelf.present(f"aa{length:030}") for length in LENGTHS] == [None, None, None]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_removed_block_is_gone_and_can_come_again(shelf: Shelf, length: int, is_sealed: bool) -> None:
    put(shelf, B, length)
    if is_sealed:
        put(shelf, A, length)
    else:
        shelf.begin(A, length)
    shelf.remove(A)
    shelf.restart("boot-0")
    assert (shelf.complete(), shelf.present(A), shelf.read(A)) == ({B}, None, None)
    put(shelf, A, length)
    assert shelf.complete() == {A, B}
