"""Names of the steps in which a tier directory changes, so that a test can end the world between any two of them.

In production the steps do nothing. ``CRASH_WORKER_AT=seal.renamed`` (or ``seal.renamed:3``, the third time) makes the
process kill itself there, as ``kill -9`` would; a test of ``TierDirectory`` passes a function that raises.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

from forebay.errors import ConfigError

Steps = Callable[[str], None]
"""Called with the name of a step that has just been taken."""

VARIABLE = "CRASH_WORKER_AT"

NAMES = (
    "part.created",  # the empty .part
    "map.created",  # its sidecar
    "extent.written",  # an extent's bytes
    "extent.summed",  # its checksum in the sidecar
    "extent.mapped",  # its bit
    "seal.recorded",  # a small block's line in the seals log
    "seal.synced",  # a large block flushed
    "seal.renamed",  # the .blk
    "seal.unmapped",  # the sidecar of a small block unlinked
    "remove.unlinked",  # the .blk or .part
    "remove.unmapped",  # its sidecar
    "log.synced",  # the watermark of the seals log
    "log.rewritten",  # a shorter seals log written beside the old one
    "log.replaced",  # and put in its place
    "start.doubted",  # a .blk that another boot may have torn made a .part again
    "start.booted",  # this boot noted
    "move.copied",  # all extents copied into the other tier
    "move.switched",  # the index says that the block lives there
)


def nothing(name: str) -> None:
    """Production: goes on."""


def from_environment(environment: Mapping[str, str]) -> Steps:
    """The steps that the environment asks for.

    Raises:
        ConfigError: it names no step.
    """
    text = environment.get(VARIABLE)
    if not text:
        return nothing
    name, _, times = text.partition(":")
    if name not in NAMES or (times and not times.isdecimal()):
        raise ConfigError(VARIABLE, f"{text!r} is none of {', '.join(NAMES)}, each with :N for the N-th time")
    return Killer(name, int(times or 1))


class Killer:
    """Kills this process when a step is taken for the ``times``-th time."""

    def __init__(self, name: str, times: int) -> None:
        self._name = name
        self._left = times

    def __call__(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
