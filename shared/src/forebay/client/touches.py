"""Counting reads that the worker did not see, and telling it at most once a second. The counting is pure."""

from __future__ import annotations

from forebay.contracts import Touch, TouchRequest

TOUCHES_MAX = 20_000
"""Blocks of one worker that wait to be reported, and blocks in one report."""

STILL_OPEN_S = 60.0
"""How often blocks that stay open are reported again."""


class Touches:
    """Opens and bytes by worker and block since the last report. Bounded; what does not fit is counted and dropped."""

    def __init__(self) -> None:
        self._pending: dict[str, dict[str, tuple[int, int]]] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return sum(len(blocks) for blocks in self._pending.values())

    def add(self, member_id: str, block_id: str, *, opens: int, read_bytes: int) -> None:
        """Add to what waits for ``member_id``."""
        blocks = self._pending.setdefault(member_id, {})
        if block_id not in blocks and len(blocks) >= TOUCHES_MAX:
            self.dropped += 1
            return
        o, n = blocks.get(block_id, (0, 0))
        blocks[block_id] = (o + opens, n + read_bytes)

    def take(self) -> dict[str, TouchRequest]:
        """Everything that waits, by member; afterwards nothing does."""
        taken, self._pending = self._pending, {}
        return {
            member: TouchRequest(
                touches=tuple(Touch(block_id=b, opens=o, read_bytes=n) for b, (o, n) in blocks.items())
            )
            for member, blocks in taken.items()
        }
