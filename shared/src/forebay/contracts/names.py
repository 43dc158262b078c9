"""Records about many names at once: what changed, what is to be asked anew, batches of paths."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from forebay.contracts.codec import Record
from forebay.contracts.records import Count, PathText, ShortText

CHANGES_PATH = "/v1/changes"
SYNC_PATH = "/v1/sync"
ACCESSES_PATH = "/v1/files:accessed"
ACCESSES_MAX = 1000

ChangeKind = Literal["changed", "removed", "added", "dir"]


class Change(Record, frozen=True):
    """One name that is not what it was. ``dir``: anything below ``path`` may have changed. ``fingerprint`` is that of
    the new version of a file."""

    mount_id: ShortText
    path: PathText
    kind: ChangeKind
    fingerprint: ShortText | None = None


class ChangesReply(Record, frozen=True):
    """What a master found since a cursor (``GET /v1/changes?after=CURSOR&wait_s=S``, without ``after``: from now on).

    ``cursor`` is where to go on. ``reset``: the master cannot tell what happened since ``after`` (it is another one, or
    was started anew, or too much happened): whatever the caller holds may have changed.
    """

    cursor: Annotated[str, Meta(min_length=1, max_length=64)]
    reset: bool
    changes: tuple[Change, ...]


class SyncRequest(Record, frozen=True):
    """Ask the under store about ``path`` now, whatever its consistency class says. A directory is listed, with
    ``recursive`` also every directory below it that is known."""

    path: PathText
    recursive: bool = False


class SyncReply(Record, frozen=True):
    """What was asked anew, and how many names turned out to have changed (a directory that changed too much is one)."""

    directories: Count
    changes: Count
    synced_at_s: float


class Access(Record, frozen=True):
    """The last time that a file was opened for reading (Unix time)."""

    path: PathText
    accessed_s: Annotated[float, Meta(ge=0)]


class AccessesRequest(Record, frozen=True):
    """What was opened since the last report: one entry for a file, however often that was."""

    accesses: Annotated[tuple[Access, ...], Meta(max_length=ACCESSES_MAX)]


class AccessesReply(Record, frozen=True):
    """``kept``: how many of them lie below a mount."""

    kept: Count
