"""PyTorch datasets over a cluster, a mount or a folder. Nothing else here imports torch, which is not ours to install.

    from forebay.torch import ShardDataset
    dataset = ShardDataset(MountFiles(Path("/data")), shards, seed=7, decode=to_tensor)
    for epoch in range(90):
        dataset.set_epoch(epoch)
        for batch in DataLoader(dataset, batch_size=256, num_workers=8): ...

Ranks come from ``torch.distributed`` when it is initialised, else from ``RANK`` and ``WORLD_SIZE``, else there is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch.distributed
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from forebay.data import Files, Part, Position, ShardStream, StreamOptions
from forebay.data.places import FolderFiles, SdkFiles
from forebay.errors import InvalidRequest
from forebay.telemetry import waits

Decode = Callable[[Any], Any]


def part_of_rank(rank: int | None = None, world: int | None = None) -> Part:
    """This process's part, without workers.

    Raises:
        InvalidRequest: a rank that is not one of the world or no number, or only one of both is given.
    """
    if (rank is None) != (world is None):
        raise InvalidRequest("rank and world_size come together")
    if rank is not None and world is not None:
        return Part(rank, world)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Part(torch.distributed.get_rank(), torch.distributed.get_world_size())
    return Part(_number("RANK", "0"), _number("WORLD_SIZE", "1"))


def _number(variable: str, otherwise: str) -> int:
    text = os.environ.get(variable, otherwise)
    try:
        return int(text)
    except ValueError as e:
        raise InvalidRequest(f"{variable} is no number: {text!r}") from e


class ShardDataset(IterableDataset):
    """Samples of TFRecord or tar shards, each once an epoch over all ranks and workers.

    ``decode`` makes of a sample (bytes, or a dict of a tar) what the training wants. In mid-epoch, ``state_dict`` of a
    dataset that is read in this process, or ``resume_after`` for one that workers read, begins where it was left.
    """

    def __init__(
        self,
        files: Files,
        shards: Sequence[str],
        *,
        rank: int | None = None,
        world_size: int | None = None,
        decode: Decode | None = None,
        **options: Any,
    ) -> None:
        self._part = part_of_rank(rank, world_size)
        self._options = StreamOptions(**options)
        if not shards:
            raise InvalidRequest("there are no shards")
        self._files, self._shards, self._decode = files, list(shards), decode
        self._start = Position()
        self._skips: Mapping[int, int] = {}
        self._stream: ShardStream | None = None

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is epoch ``epoch`` from its beginning."""
        self._start, self._skips, self._stream = Position(epoch=epoch), {}, None

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        part = Part(self._part.rank, self._part.world, worker, workers)
        skip = self._skips.get(worker, 0)
        stream = ShardStream(
            self._files, self._shards, part, self._options, start=self._start, skip=skip, decode=self._decode
        )
        self._stream = stream
        yield from stream
        self._start = Position(epoch=self._start.epoch + 1)

    # -- going on in mid-epoch

    def state_dict(self) -> dict[str, int]:
        """Where the next sample comes from: of this process, or of the worker that calls it."""
        return (self._stream.position if self._stream is not None else self._start).to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration goes on from there; seed, shards, ranks and workers must be what they were."""
        self._start, self._skips, self._stream = Position.of(dict(state)), {}, None

    def resume_after(self, *, epoch: int, batches: int, batch_size: int, num_workers: int) -> None:
        """The next iteration goes on after ``batches`` batches of a ``DataLoader`` with the same settings.

        The loader takes batches from its workers in turn, so it is known how many samples each has given; this holds
        until the first worker has no more of its own (the last batches of an epoch).
        """
        if batches < 0 or batch_size < 1 or num_workers < 0:
            raise InvalidRequest("batches and num_workers must not be negative, batch_size must be at least 1")
        count = max(1, num_workers)
        self._start, self._stream = Position(epoch=epoch), None
        self._skips = {w: (batches // count + (w < batches % count)) * batch_size for w in range(count)}


class FileDataset(Dataset):
    """Single files by index: bytes, or what ``decode`` makes of them. Give a ``DistributedSampler`` to the loader."""

    def __init__(self, files: Files, paths: Sequence[str], *, decode: Decode | None = None) -> None:
        if not paths:
            raise InvalidRequest("there are no files")
        self._files, self._paths, self._decode = files, list(paths), decode
        self._turns = waits.Turns()

    def __len__(self) -> int:
        return len(self._paths)

    def hint(self, order: Sequence[int], *, epoch: int = 0) -> None:
        """The workers are told that this rank will read these indices in this order.

        Raises:
            NotFound: some files are not there.
        """
        self._files.hint([self._paths[n] for n in order], epoch=epoch, seed=0, rank=part_of_rank().rank)

    def __getitem__(self, index: int) -> Any:
        with self._turns.turn(self._paths[index]) as has_read:
            data = _whole(self._files, self._paths[index])
            has_read()
            return data if self._decode is None else self._decode(data)


class HintedSampler(Sampler):
    """The order of another sampler, of which the workers are told when an epoch begins."""

    def __init__(self, sampler: Sampler, dataset: FileDataset) -> None:
        self._sampler, self._dataset, self._epoch = sampler, dataset, 0

    def set_epoch(self, epoch: int) -> None:
        """As ``DistributedSampler.set_epoch``."""
        self._epoch = epoch
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[int]:
        order = list(self._sampler)
        self._dataset.hint(order, epoch=self._epoch)
        self._epoch += 1
        yield from order


def _whole(files: Files, path: str) -> bytes:
    source = files.open(path)
    try:
        buffer = bytearray(source.size)
        n = source.read_into(0, memoryview(buffer))
        if n < len(buffer):
            raise InvalidRequest(f"{path} ended early, at byte {n}", path=path)
        return bytes(buffer)
    finally:
        source.close()


__all__ = ["FileDataset", "FolderFiles", "HintedSampler", "SdkFiles", "ShardDataset", "part_of_rank"]
