"""Samples of shards: all of them, once, in an order that can be taken up anywhere; buffers within their budget."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from forebay.data import BrokenRecord, FolderFiles, Part, Position, ShardStream, StreamOptions
from forebay.data.pieces import BUDGET, Budget, Pieces, Section
from forebay.data.places import LocalSource
from forebay.data.tuning import ROUND, Streams, taken
from forebay.errors import InvalidRequest, NotFound
from tests.unit.data.kit import all_records, tar_bytes, tfrecord_shards

ALONE = Part()
OPTIONS = StreamOptions(seed=5, window=7, piece_bytes=4096, buffers=3)


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Six shards of 20 to 25 records."""
    return tfrecord_shards(tmp_path, shards=6, records=20)


def read(folder: Path, shards: list[str], part: Part = ALONE, **given: int) -> list[bytes]:
    position = Position(epoch=given.get("epoch", 0))
    return list(ShardStream(FolderFiles(folder), shards, part, OPTIONS, start=position, skip=given.get("skip", 0)))


def test_an_epoch_has_every_record_once_over_all_ranks_and_workers(tmp_path: Path, shards: list[str]) -> None:
    found = Counter(r for rank in range(2) for w in range(2) for r in read(tmp_path, shards, Part(rank, 2, w, 2)))

    assert found == Counter(all_records(shards=6, records=20))


def test_epochs_differ_in_order_and_repeat_exactly(tmp_path: Path, shards: list[str]) -> None:
    first = read(tmp_path, shards)

    assert first == read(tmp_path, shards)
    assert first != read(tmp_path, shards, epoch=1)
    assert sorted(first) == sorted(read(tmp_path, shards, epoch=1))


def test_the_position_is_that_of_the_sample_that_comes_next_all_the_while(tmp_path: Path, shards: list[str]) -> None:
    stream = ShardStream(FolderFiles(tmp_path), shards, Part(), OPTIONS, start=Position(epoch=3))

    seen = [stream.position, *(stream.position for _ in stream)]

    assert seen[0] == Position(epoch=3)
    assert [p.samples for p in seen] == list(range(136))
    assert {p.epoch for p in seen} == {3}
    assert [p.done for p in seen[1:8]] == [1, 2, 3, 4, 5, 6, 7]
    assert all((p.shard, p.record, p.offset) == (0, 0, 0) for p in seen[:8])
    assert (seen[8].record, seen[8].done) == (7, 1)


@pytest.mark.parametrize("stop", [0, 1, 6, 7, 8, 20, 21, 66, 134, 135])
def test_reading_goes_on_from_any_sample(tmp_path: Path, shards: list[str], stop: int) -> None:
    whole = read(tmp_path, shards)
    stream = ShardStream(FolderFiles(tmp_path), shards, Part(), OPTIONS)
    begun = [sample for _, sample in zip(range(stop), stream, strict=False)]
    kept = Position.of(stream.position.to_dict())

    rest = list(ShardStream(FolderFiles(tmp_path), shards, Part(), OPTIONS, start=kept))

    assert begun + rest == whole
    assert kept.samples == stop
    assert read(tmp_path, shards, skip=stop) == whole[stop:]


def test_tar_shards_are_read_shuffled_and_taken_up_again(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.tar").write_bytes(tar_bytes(15 + n))
    options = StreamOptions(format="tar", seed=2, window=4, piece_bytes=4096)
    names = [f"{n}.tar" for n in range(3)]
    whole = list(ShardStream(FolderFiles(tmp_path), names, Part(), options))

    stream = ShardStream(FolderFiles(tmp_path), names, Part(), options)
    begun = [sample for _, sample in zip(range(22), stream, strict=False)]
    rest = list(ShardStream(FolderFiles(tmp_path), names, Part(), options, start=stream.position))

    assert len(whole) == 15 + 16 + 17
    assert begun + rest == whole


def test_a_broken_shard_ends_the_reading_with_file_and_offset(tmp_path: Path, shards: list[str]) -> None:
    path = tmp_path / shards[3]
    data = bytearray(path.read_bytes())
    data[700] ^= 4
    path.write_bytes(data)

    with pytest.raises(BrokenRecord, match=rf"{shards[3]}: .* at byte \d+"):
        read(tmp_path, shards)
    path.write_bytes(data[:650])
    with pytest.raises(BrokenRecord, match=rf"{shards[3]}: .* at byte \d+"):
        read(tmp_path, shards)
    assert not [t for t in threading.enumerate() if t.name == "forebay-input"]


def test_a_shard_that_is_missing_is_one_clear_error(tmp_path: Path, shards: list[str]) -> None:
    with pytest.raises(NotFound, match="gone"):
        read(tmp_path, [*shards, "gone.tfrecord"])


def test_when_reading_ends_early_threads_and_memory_are_given_back(tmp_path: Path, shards: list[str]) -> None:
    before = BUDGET.held_bytes
    stream = iter(ShardStream(FolderFiles(tmp_path), shards, Part(), OPTIONS))

    next(stream)
    held = BUDGET.held_bytes
    del stream

    assert held > before
    assert BUDGET.held_bytes == before
    assert not [t for t in threading.enumerate() if t.name == "forebay-input"]


def test_buffers_stay_within_the_budget_and_a_reader_always_has_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(64 * 4096))
    budget = Budget(5 * 4096)
    seen = []

    def pieces() -> Pieces:
        sections = iter([Section("file")])
        return Pieces(FolderFiles(tmp_path), sections, piece_bytes=4096, buffers=4, budget=budget)

    with pieces() as one, pieces() as two, pieces() as three:
        for trio in zip(one, two, three, strict=True):
            seen.append(budget.held_bytes)
            for reader, piece in zip((one, two, three), trio, strict=True):
                reader.release(piece)

    assert len(seen) == 64
    assert max(seen) <= 5 * 4096 + 2 * 4096
    assert budget.held_bytes == 0


def test_pieces_come_in_order_whatever_stream_was_faster(tmp_path: Path) -> None:
    body = bytes(n % 251 for n in range(300_001))
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode() + body)
    (tmp_path / "empty").write_bytes(b"")
    names = ["a", "empty", "b", "c"]

    sections = (Section(name, number=n) for n, name in enumerate(names))
    with Pieces(FolderFiles(tmp_path), sections, piece_bytes=4096, streams_max=4) as pieces:
        pieces.streams = Streams(4, 4)
        found: dict[str, bytes] = {}
        for piece in pieces:
            found[piece.section.path] = found.get(piece.section.path, b"") + bytes(piece.view)
            pieces.release(piece)

    assert found == {name: name.encode() + body for name in "abc"}


def test_streams_grow_while_pieces_are_late_and_shrink_when_none_is() -> None:
    state = Streams(1, 3)
    for _ in range(4 * ROUND):
        state = taken(state, was_late=True)
    grown = state.count
    for _ in range(20 * ROUND):
        state = taken(state, was_late=False)

    assert (grown, state.count) == (3, 1)


def test_what_cannot_work_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="format"):
        StreamOptions(format="zip")  # type: ignore[arg-type]  # what callers without a type checker give
    with pytest.raises(InvalidRequest, match="window"):
        StreamOptions(window=0)
    with pytest.raises(InvalidRequest, match="position"):
        Position.of({"colour": 1})
    with pytest.raises(InvalidRequest):
        LocalSource(tmp_path).read_into(0, memoryview(bytearray(1)))


class Told(FolderFiles):
    """Remembers what it was told: the epoch, and whether it is the next."""

    told: ClassVar[list[tuple[int, bool]]] = []

    def hint(self, paths: Sequence[str], *, epoch: int, seed: int, rank: int, is_next: bool = False) -> None:
        self.told.append((epoch, is_next))


@pytest.mark.parametrize(
    ("epoch", "epochs", "told"),
    [
        (0, None, [(0, False)]),  # it may be the only one
        (2, None, [(2, False), (3, True)]),
        (0, 2, [(0, False), (1, True)]),
        (1, 2, [(1, False)]),
    ],
)
def test_the_order_of_the_next_epoch_is_told_near_the_end_if_there_is_one(
    tmp_path: Path, epoch: int, epochs: int | None, told: list[tuple[int, bool]]
) -> None:
    names = tfrecord_shards(tmp_path, shards=8, records=2)
    files = Told(tmp_path)
    files.told.clear()
    stream = iter(ShardStream(files, names, ALONE, StreamOptions(epochs=epochs, window=1), start=Position(epoch=epoch)))

    first = [next(stream) for _ in range(20)]
    early = list(files.told)
    rest = list(stream)

    assert len(first) < len(rest)
    assert early == [(epoch, False)]
    assert files.told == told
