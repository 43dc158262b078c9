"""``.forebay/hints``: what a program writes there is the order in which it will read files, given on when it is closed.

One path below the mount a line. The first line may be ``# epoch=3 seed=7 rank=0 next=0``, each of them 0 if it is not
said; ``next=1``: the order is read after the one that was told before.
``close`` fails with what was wrong (ENOENT: files that are not there, EINVAL: no such order); reading the file says it
in words.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from forebay.errors import ForebayError, InvalidRequest
from forebay_fuse.errno_door import Refused

NAME = "hints"
BYTES_MAX = 32 << 20
"""Of one order."""

ORDERS_MAX = 64
"""Orders that are being written."""

_HEAD = re.compile(r"#((?:\s+(?:(?:epoch|seed|rank)=\d{1,18}|next=[01]))*)\s*", re.ASCII)


@dataclass(frozen=True)
class Order:
    """What was written: absolute paths of the namespace."""

    files: Sequence[str]
    epoch: int = 0
    seed: int = 0
    rank: int = 0
    is_next: bool = False


def parse(text: bytes, root: str) -> Order:
    """The order in ``text``, of files below ``root``.

    Raises:
        InvalidRequest: no UTF-8, or a first line that begins with ``#`` and says something else.
    """
    try:
        lines = text.decode().splitlines()
    except UnicodeDecodeError as e:
        raise InvalidRequest(f"a hint is text: byte {e.start} is none") from e
    numbers: dict[str, int] = {}
    if lines and lines[0].startswith("#"):
        found = _HEAD.fullmatch(lines.pop(0))
        if found is None:
            raise InvalidRequest("the first line of a hint is a path, or as: # epoch=3 seed=7 rank=0 next=0")
        numbers = {name: int(value) for name, _, value in (word.partition("=") for word in found[1].split())}
    below, is_next = root.rstrip("/"), bool(numbers.pop("next", 0))
    return Order([f"{below}/{line.lstrip('/')}" for line in lines if line], **numbers, is_next=is_next)


Give = Callable[[Order], Awaitable[int]]


class Hints:
    """Orders that are being written, by handle; ``give`` tells the workers, and how many blocks were named."""

    def __init__(self, give: Give, root: str) -> None:
        self._give, self._root = give, root
        self._written: dict[int, bytearray] = {}
        self._said = "no order was given yet"

    def __len__(self) -> int:
        return len(self._written)

    def text(self) -> bytes:
        """What became of the last order."""
        return f"{self._said}\n".encode()

    def open(self, handle: int) -> None:
        """A program begins to write."""
        if len(self._written) >= ORDERS_MAX:
            raise Refused(errno.ENFILE, "too many orders are being written")
        self._written[handle] = bytearray()

    def write(self, handle: int, offset: int, data: bytes) -> int:
        """Takes what follows what was written before; how much that is."""
        if handle not in self._written:  # an earlier gateway's handle
            self.open(handle)
        held = self._written[handle]
        if offset != len(held):
            raise Refused(errno.ESPIPE, "an order is written from its beginning to its end")
        if len(held) + len(data) > BYTES_MAX:
            raise Refused(errno.EFBIG, "an order is too long")
        held += data
        return len(data)

    def take(self, handle: int) -> bytes:
        """What was written and nobody was told; the handle has nothing more of it."""
        text = bytes(self._written.get(handle, b""))
        if text:
            self._written[handle] = bytearray()
        return text

    async def tell(self, text: bytes) -> None:
        """Tells the workers an order.

        Raises:
            ForebayError: why they were not told.
        """
        try:
            order = parse(text, self._root)
            count = await self._give(order)
        except ForebayError as e:
            self._said = f"refused: {e.message}"
            raise
        self._said = (
            f"{count} blocks of {len(order.files)} files: epoch={order.epoch} seed={order.seed} rank={order.rank}"
            f"{' next=1' * order.is_next}"
        )

    def release(self, handle: int) -> None:
        """The last close."""
        self._written.pop(handle, None)
