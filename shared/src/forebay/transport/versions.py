"""Bodies of peers of the wire version after ours: read without the fields we do not know, and said once in the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from forebay.contracts import Record, decode, decode_newer
from forebay.contracts.versions import is_newer
from forebay.runtime import logs

R = TypeVar("R", bound=Record)
NAMES_MAX = 64
"""Field names that are remembered as said; others are left out without a word."""


class LeftOut:
    """Which fields were left out until now."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def add(self, names: Iterable[str]) -> list[str]:
        """Those that are new, and remembered from now on."""
        fresh = sorted(set(names) - self.names)[: NAMES_MAX - len(self.names)]
        self.names.update(fresh)
        return fresh


LEFT_OUT = LeftOut()
"""Of this process."""


def decode_body(kind: type[R], body: bytes | bytearray, wire: str | None) -> R:
    """The record in a body whose sender said ``wire`` of its version; strict unless that is newer than ours.

    Raises:
        InvalidRequest: see ``decode`` and ``decode_newer``.
    """
    if not is_newer(wire):
        return decode(kind, body)
    record, unknown = decode_newer(kind, body)
    if unknown and (fresh := LEFT_OUT.add(unknown)):
        logs.get(__name__).warning("newer_fields_left_out", fields=fresh, wire_version=wire)
    return record
