"""Passthrough: a file that is one whole block on this host is read by the kernel itself, and no READ comes here.

The block is opened beneath the short-circuit directories by the SDK, registered with the kernel, and our descriptor is
closed; the worker hears that the block is open by touch reports until the last release. One backing id for each inode:
the kernel refuses a second.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from forebay.contracts import Layout
from forebay.runtime import logs
from forebay.telemetry import Metrics
from forebay_fuse.backing import HOPELESS, Backings
from forebay_fuse.sdk import Block, Client

SEAL_WAIT_S = 0.1
"""How long an OPEN waits for a small file that was just fetched to become a block file."""

SEAL_POLL_S = 0.0005
IMPATIENT_S = 1.0
IMPATIENT_MAX_S = 60.0
LOG = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """Whether it pays to fetch small files inside OPEN. A worker that keeps none of them (it is full) is not waited
    for again until ``until_s``: twice as long after each miss in a row, up to a minute. Pure."""

    misses: int = 0
    until_s: float = 0.0

    def allows(self, now_s: float) -> bool:
        """Whether to try."""
        return now_s >= self.until_s

    def missed(self, now_s: float) -> Patience:
        """The block file did not come."""
        return Patience(self.misses + 1, now_s + min(IMPATIENT_S * 2.0 ** min(self.misses, 10), IMPATIENT_MAX_S))

    def met(self) -> Patience:
        """It came."""
        return self if not self.misses else Patience()


class Passing:
    """The backing files of one session. ``device`` is set once the kernel has agreed to passthrough."""

    def __init__(self, client: Client, metrics: Metrics) -> None:
        self._client = client
        self._blocks: dict[int, Block] = {}
        self._refused = metrics.counter(
            "forebay_fuse_passthrough_refused_total", "backing files that the kernel refused", ("errno",)
        )
        self.device: Backings | None = None
        metrics.observed("forebay_fuse_backing_files", "block files that the kernel reads", lambda: len(self._blocks))

    def __len__(self) -> int:
        return len(self._blocks)

    def register(self, layout: Layout) -> int:
        """The backing id of a whole file on this host; 0 if there is none, or the kernel refuses it."""
        device = self.device
        if device is None:
            return 0
        block = self._client.open_block(layout)
        if block is None:
            return 0
        try:
            backing_id = device.open(block.fd)
        except OSError as e:
            block.close()
            self._no(e)
            return 0
        block.detach()
        self._blocks[backing_id] = block
        return backing_id

    def restore(self, backing_id: int, layout: Layout) -> None:
        """A backing file that an earlier gateway registered: its block, if it is still there, counts as open."""
        block = self._client.open_block(layout)
        if block is not None:
            block.detach()
            self._blocks[backing_id] = block

    def _no(self, error: OSError) -> None:
        self._refused.add(1, errno.errorcode.get(error.errno or 0, str(error.errno)))
        if error.errno in HOPELESS:
            LOG.warning("no_passthrough", error=str(error), hint="it needs CAP_SYS_ADMIN and Linux 6.9")
            self.device = None

    def again(self, backing_id: int) -> None:
        """One open more of a file that is passed through."""
        if (block := self._blocks.get(backing_id)) is not None:
            block.again()

    def give_back(self, backing_id: int) -> None:
        """After the last release."""
        block = self._blocks.pop(backing_id, None)
        if block is not None:
            block.close()
        if self.device is not None:
            try:
                self.device.close(backing_id)
            except OSError as e:  # the session ended, and its backing files with it
                LOG.debug("backing_not_closed", error=str(e))
