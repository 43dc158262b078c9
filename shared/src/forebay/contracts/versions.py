"""Which wire versions work together: a service speaks one, and takes those next to it.

So a cluster is upgraded process by process, one version at a time: old and new are neighbours meanwhile. What the newer
one says more is left out by the older one, what the older one does not say has a default for the newer one.
"""

from __future__ import annotations

from forebay.contracts.codec import WIRE_VERSION

FIRST_VERSION = 1
"""There was none before."""


def neighbours(version: int) -> range:
    """The wire versions that one of ``version`` works with, its own among them."""
    return range(max(FIRST_VERSION, version - 1), version + 2)


ACCEPTED = neighbours(WIRE_VERSION)
_OURS = str(WIRE_VERSION)
_TAKEN = frozenset(map(str, ACCEPTED))
_NEWER = str(WIRE_VERSION + 1)


def is_taken(header: str | None) -> bool:
    """Whether we work with who sent this ``forebay-wire`` header; one that sends none (a person with curl) counts."""
    return header is None or header == _OURS or header in _TAKEN


def is_newer(header: str | None) -> bool:
    """Whether its sender is of the version after ours, and may send fields that we do not know."""
    return header == _NEWER


def accepted_text() -> str:
    """The versions we take, in words: ``1 and 2``."""
    first, *_, last = ACCEPTED
    return f"{first} to {last}" if last - first > 1 else f"{first} and {last}"
