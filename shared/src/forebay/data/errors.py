"""What can be wrong with training data and with where it is looked for."""

from __future__ import annotations

from typing import ClassVar

from forebay.errors import CallerError


class BrokenRecord(CallerError):
    """A shard is torn or its bytes were changed. The message names the file and the offset."""

    code: ClassVar[str] = "broken_record"


class NotOurMount(CallerError):
    """A folder was said to be a mount of Forebay's and is not."""

    code: ClassVar[str] = "not_our_mount"


def broken(path: str, offset: int, what: str) -> BrokenRecord:
    """The error for byte ``offset`` of ``path``."""
    return BrokenRecord(f"{path}: {what} at byte {offset}", path=path, offset=offset)
