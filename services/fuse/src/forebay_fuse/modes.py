"""In which mode an inode is open: cached, past the page cache, or passed through. Pure.

The kernel allows one mode at a time, and one backing file: another mode, or a second backing id of the same file, is
EIO for the program. So the first open of an inode chooses, and every further one is answered alike until the last is
closed. (A mapping holds its file open: what is still mapped has not been released.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class Mode(Enum):
    """How the kernel reads an open inode."""

    CACHED = "cached"
    DIRECT = "direct"
    PASSTHROUGH = "passthrough"


@dataclass(frozen=True, slots=True)
class OpenState:
    """An open inode. Invariants: ``opens`` > 0; ``backing_id`` > 0 exactly when passed through."""

    mode: Mode
    backing_id: int = 0
    opens: int = 1

    def validate(self) -> None:
        """Checks the invariants."""
        assert self.opens > 0
        assert (self.backing_id > 0) == (self.mode is Mode.PASSTHROUGH)


def opened(state: OpenState | None, wished: Mode, backing_id: int = 0) -> OpenState:
    """After an open that would best be answered in the mode ``wished``; how it must be answered stands in the result.
    ``backing_id`` is only looked at for the first open, and only if that is to be passed through."""
    if state is not None:
        return replace(state, opens=state.opens + 1)
    return OpenState(wished, backing_id if wished is Mode.PASSTHROUGH else 0)


def closed(state: OpenState) -> tuple[OpenState | None, int]:
    """After one close: the state (``None``: no longer open), and the backing id to give back (0: none)."""
    if state.opens > 1:
        return replace(state, opens=state.opens - 1), 0
    return None, state.backing_id


class OpenModes:
    """The open inodes of one session, by node id."""

    def __init__(self) -> None:
        self._states: dict[int, OpenState] = {}

    def __len__(self) -> int:
        return len(self._states)

    def get(self, node_id: int) -> OpenState | None:
        """How an inode is open; ``None``: it is not."""
        return self._states.get(node_id)

    def open(self, node_id: int, wished: Mode, backing_id: int = 0) -> OpenState:
        """One open more; how to answer it."""
        state = self._states[node_id] = opened(self._states.get(node_id), wished, backing_id)
        return state

    def close(self, node_id: int) -> int:
        """One open less; the backing id to give back (0: none)."""
        state = self._states.get(node_id)
        if state is None:
            return 0
        left, backing_id = closed(state)
        if left is None:
            del self._states[node_id]
        else:
            self._states[node_id] = left
        return backing_id

    def validate(self) -> None:
        """Checks each state."""
        for state in self._states.values():
            state.validate()
