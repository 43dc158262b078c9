"""The PyTorch datasets in real data loaders: splitting, going on in mid-epoch, errors in the training process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from forebay.data import FolderFiles
from forebay.data.order import Part, shard_order, share
from forebay.errors import InvalidRequest
from forebay.torch import FileDataset, HintedSampler, ShardDataset, part_of_rank
from tests.unit.data.kit import all_records, record, tfrecord_shards


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Six shards."""
    return tfrecord_shards(tmp_path, shards=6, records=20)


def dataset(folder: Path, shards: list[str], **given: Any) -> ShardDataset:
    return ShardDataset(FolderFiles(folder), shards, seed=5, window=7, piece_bytes=4096, **given)


def loaded(data: ShardDataset, **given: Any) -> list[list[bytes]]:
    return list(DataLoader(data, batch_size=4, collate_fn=list, **given))


def test_ranks_and_loader_workers_share_an_epoch_without_overlap_and_without_loss(
    tmp_path: Path, shards: list[str]
) -> None:
    found: Counter[bytes] = Counter()

    for rank in range(2):
        for batch in loaded(dataset(tmp_path, shards, rank=rank, world_size=2), num_workers=2):
            found.update(batch)

    assert found == Counter(all_records(shards=6, records=20))


def test_an_epoch_is_another_order_of_the_same_samples(tmp_path: Path, shards: list[str]) -> None:
    data = dataset(tmp_path, shards)
    first = list(data)

    data.set_epoch(0)
    again = list(data)
    data.set_epoch(1)
    second = list(data)

    assert first == again
    assert first != second
    assert sorted(first) == sorted(second)


def test_state_goes_on_with_the_next_sample(tmp_path: Path, shards: list[str]) -> None:
    whole, data = list(dataset(tmp_path, shards)), dataset(tmp_path, shards)
    begun = [sample for _, sample in zip(range(50), data, strict=False)]
    state = data.state_dict()

    other = dataset(tmp_path, shards)
    other.load_state_dict(state)

    assert begun + list(other) == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_after_so_many_batches(tmp_path: Path, shards: list[str], workers: int) -> None:
    data = dataset(tmp_path, shards)
    whole = loaded(data, num_workers=workers)
    data.resume_after(epoch=0, batches=9, batch_size=4, num_workers=workers)

    rest = loaded(data, num_workers=workers)

    assert Counter(s for b in rest for s in b) == Counter(s for b in whole[9:] for s in b)
    if workers == 0:
        assert rest == whole[9:]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_data_is_one_clear_error_in_the_training_process(
    tmp_path: Path, shards: list[str], workers: int
) -> None:
    path = tmp_path / shards[2]
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(Exception, match=rf"{shards[2]}: the file ends inside .* at byte \d+"):
        loaded(dataset(tmp_path, shards), num_workers=workers)


def test_a_rank_that_is_not_one_of_the_world_is_refused_at_once(tmp_path: Path, shards: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="rank 2 is not one of a world of 2"):
        dataset(tmp_path, shards, rank=2, world_size=2)
    with pytest.raises(InvalidRequest, match="come together"):
        part_of_rank(rank=1)


def test_a_launcher_says_the_rank_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")

    assert (part_of_rank().rank, part_of_rank().world) == (3, 4)


@pytest.mark.parametrize(
    ("variable", "value", "said"), [("RANK", "4", "rank 4 is not one"), ("WORLD_SIZE", "x", "no number")]
)
def test_a_launcher_that_says_nonsense_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv(variable, value)

    with pytest.raises(InvalidRequest, match=said):
        dataset(tmp_path, ["never-opened"])


def test_files_are_read_by_index_and_decoded(tmp_path: Path) -> None:
    for n in range(9):
        (tmp_path / f"{n}.bin").write_bytes(record(0, n))
    data = FileDataset(FolderFiles(tmp_path), [f"{n}.bin" for n in range(9)], decode=len)

    found = [n for batch in DataLoader(data, batch_size=2, num_workers=2, collate_fn=list) for n in batch]

    assert found == [len(record(0, n)) for n in range(9)]
    with pytest.raises(InvalidRequest, match="no files"):
        FileDataset(FolderFiles(tmp_path), [])


def test_the_order_of_an_epoch_is_told_before_it_is_read(tmp_path: Path) -> None:
    told: list[tuple[list[str], int, int, bool]] = []

    class Told(FolderFiles):
        def hint(self, paths: Sequence[str], *, epoch: int, seed: int, rank: int, is_next: bool = False) -> None:
            told.append((list(paths), epoch, rank, is_next))

    names = tfrecord_shards(tmp_path, shards=4, records=2)
    shards = ShardDataset(Told(tmp_path), names, seed=7, rank=1, world_size=2, window=1)
    shards.set_epoch(3)
    files = FileDataset(Told(tmp_path), names)

    read = [int(bytes(sample).partition(b"/")[0]) for sample in shards]
    sampled = list(HintedSampler(RandomSampler(files, generator=torch.Generator().manual_seed(1)), files))
    list(ShardDataset(Told(tmp_path), names, hints=False))

    assert [names[n] for n in dict.fromkeys(read)] == told[0][0]
    assert told[0][1:] == (3, 1, False)
    assert told[1] == (share(shard_order(names, seed=7, epoch=4), Part(1, 2)), 4, 1, True)
    assert told[2] == ([names[n] for n in sampled], 0, 0, False)
    assert len(told) == 3
