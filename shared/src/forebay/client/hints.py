"""Telling workers what will be read: an order of files becomes, for each worker, the order of the blocks it is home of.
Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from forebay.client.wanted import FileVersion
from forebay.contracts import HintedBlock, HintRequest, identity

BLOCKS_PER_REQUEST = 1000
FILES_MAX = 200_000
"""Files of one order."""

MISSING_NAMED = 5
"""Files that are not there, which the error names."""

LISTED_FROM = 4
"""Files of one directory from which on its listing is asked for, not each by name."""


@dataclass(frozen=True)
class Part:
    """What one worker is told of one mount, ``ticket_path`` gets the ticket for it."""

    member_id: str
    mount_id: str
    ticket_path: str
    request: HintRequest


def parts(
    files: Iterable[FileVersion],
    *,
    stream: str,
    epoch: int,
    home_of: Callable[[str], str | None],
    is_next: bool = False,
) -> Iterator[Part]:
    """The requests, in order for each worker."""
    blocks: dict[tuple[str, str], list[HintedBlock]] = {}
    paths: dict[str, str] = {}
    for file in files:
        paths.setdefault(file.mount_id, file.path)
        for index in range(identity.block_count(file.layout.size, file.layout.block_size)):
            block_id = file.block_id(index)
            home = home_of(block_id)
            if home is not None:
                told = HintedBlock(block_id=block_id, target=file.target(index))
                blocks.setdefault((home, file.mount_id), []).append(told)
    for (home, mount_id), order in blocks.items():
        for first in range(0, len(order), BLOCKS_PER_REQUEST):
            some = tuple(order[first : first + BLOCKS_PER_REQUEST])
            name = f"{stream}:{mount_id}"
            request = HintRequest(stream=name, epoch=epoch, blocks=some, first=first, is_next=is_next)
            yield Part(home, mount_id, paths[mount_id], request)


def directories_to_list(paths: Sequence[str]) -> list[str]:
    """Directories with so many of the files that one listing is cheaper than asking for each."""
    count: dict[str, int] = {}
    for path in paths:
        folder = path.rpartition("/")[0] or "/"
        count[folder] = count.get(folder, 0) + 1
    return [folder for folder, n in count.items() if n >= LISTED_FROM]
