"""Records of names in bulk: pages that span directories, and batches of paths."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from forebay.contracts.codec import Record
from forebay.contracts.records import Entry, ErrorReply, LookupReply, PathText, ShortText

TREE_PATH = "/v1/tree"
BATCH_PATH = "/v1/files:batch"
BATCH_MAX = 1000
TREE_DEPTH_MAX = 1000


class TreeRequest(Record, frozen=True):
    """Names below the directory ``path``, directory by directory in pre-order, each directory's in byte order.

    ``depth``: how many levels of directories below ``path`` are listed (0: ``path`` alone). ``start``: begin with that
    directory in ``path`` instead of ``path`` itself, and go on with those behind it. ``page_token`` goes on where a
    page ended (then ``start`` is not looked at).
    """

    path: PathText
    depth: Annotated[int, Meta(ge=0, le=TREE_DEPTH_MAX)] = TREE_DEPTH_MAX
    start: ShortText | None = None
    page_token: Annotated[str, Meta(max_length=8192)] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000


class DirectoryPage(Record, frozen=True):
    """Names of one directory, as in a ``ListReply``: its first ones if ``is_first``, its last if ``is_last``."""

    path: PathText
    entries: tuple[Entry, ...]
    mount_id: str | None
    synced_at_s: float
    valid_s: float | None
    is_first: bool
    is_last: bool


class TreeReply(Record, frozen=True):
    """One page: at most ``limit`` entries in all, maybe fewer, of one or more directories."""

    directories: tuple[DirectoryPage, ...]
    next_page_token: str | None


class BatchRequest(Record, frozen=True):
    """Attributes and layouts of at most ``BATCH_MAX`` paths."""

    paths: tuple[PathText, ...]


class BatchItem(Record, frozen=True):
    """The answer for one path: a reply or an error."""

    reply: LookupReply | None = None
    error: ErrorReply | None = None


class BatchReply(Record, frozen=True):
    """One item for each path that was asked for, in the order of the request."""

    items: tuple[BatchItem, ...]
