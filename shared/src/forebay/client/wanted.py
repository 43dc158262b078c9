"""What a read asks for: a version of a file, a range of one of its blocks, and one request for it under way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from forebay.balancing import Owed
from forebay.client.plan import Step
from forebay.contracts import BlockTarget, Layout, identity
from forebay.contracts.blocks import block_path
from forebay.runtime import Deadline


@dataclass(frozen=True)
class FileVersion:
    """One version of one file, as a reader holds it."""

    mount_id: str
    layout: Layout
    path: str

    def block_id(self, index: int) -> str:
        """The id of block ``index``."""
        return identity.block_id(self.layout.version_id, self.layout.block_size, index)

    def block_length(self, index: int) -> int:
        """Bytes in block ``index``."""
        return identity.block_length(self.layout.size, self.layout.block_size, index)

    def target(self, index: int) -> BlockTarget:
        """What the data route is asked for."""
        layout = self.layout
        return BlockTarget(
            mount_id=self.mount_id,
            key=layout.key,
            size=layout.size,
            fingerprint=layout.fingerprint,
            index=index,
        )


@dataclass(frozen=True)
class Wanted:
    """One range of one block. ``length`` bytes from ``offset``."""

    file: FileVersion
    index: int
    offset: int
    length: int
    block_id: str
    path: str

    @staticmethod
    def of(file: FileVersion, index: int, offset: int, length: int) -> Wanted:
        """With what a request needs computed once."""
        block_id = file.block_id(index)
        return Wanted(file, index, offset, length, block_id, block_path(block_id, file.target(index)))


@dataclass(frozen=True, slots=True)
class Sent:
    """When a request went out, and what is owed since; never, while it waits for its turn."""

    at_s: float
    owed: Owed

    @staticmethod
    def now(landed: Callable[[], int], *, is_held: bool) -> Sent:
        """It goes out."""
        return Sent(time.monotonic(), Owed(landed, is_held))


@dataclass
class Request:
    """One request of a member for what is wanted, into ``buffer``. ``sent`` once it is."""

    step: Step
    wanted: Wanted
    ticket: str
    buffer: memoryview
    deadline: Deadline
    sent: Sent | None = None

    @property
    def member_id(self) -> str:
        """Of the member."""
        return self.step.member.member_id
