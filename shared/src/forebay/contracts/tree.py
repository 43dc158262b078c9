"""Records of names in bulk: pages that span directories, and batches of paths."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from forebay.contracts.codec import Record
from forebay.contracts.leaves import Shared, decode_leaf, entries
from forebay.contracts.records import Entry, ErrorReply, LookupReply, PathText, ShortText

TREE_PATH = "/v1/tree"
BATCH_PATH = "/v1/files:batch"
BATCH_MAX = 1000
TREE_DEPTH_MAX = 1000


class TreeRequest(Record, frozen=True):
    """Names below the directory ``path``, directory by directory in pre-order, each directory's in byte order.

    ``depth``: how many levels of directories below ``path`` are listed (0: ``path`` alone). ``start``: begin with that
    directory in ``path`` instead of ``path`` itself, and go on with those behind it. ``page_token`` goes on where a
    page ended (then ``start`` is not looked at). ``packed``: names may come as ``leaves``, which is a tenth of the work
    for both sides.
    """

    path: PathText
    depth: Annotated[int, Meta(ge=0, le=TREE_DEPTH_MAX)] = TREE_DEPTH_MAX
    start: ShortText | None = None
    page_token: Annotated[str, Meta(max_length=8192)] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    packed: bool = False


class DirectoryPage(Record, frozen=True):
    """Names of one directory, as in a ``ListReply``: its first ones if ``is_first``, its last if ``is_last``.

    A packed page has ``shared`` and its names in ``leaves`` (base64 of `forebay.contracts.leaves`) instead of
    ``entries``: `unpacked` gives the same page with entries.
    """

    path: PathText
    entries: tuple[Entry, ...]
    mount_id: str | None
    synced_at_s: float
    valid_s: float | None
    is_first: bool
    is_last: bool
    shared: Shared | None = None
    leaves: tuple[bytes, ...] = ()
    accessed: dict[str, float] = msgspec.field(default_factory=dict)


class TreeReply(Record, frozen=True):
    """One page: at most ``limit`` entries in all, maybe fewer, of one or more directories."""

    directories: tuple[DirectoryPage, ...]
    next_page_token: str | None


def unpacked(page: DirectoryPage) -> DirectoryPage:
    """The page with records for its names.

    Raises:
        InvalidRequest: its leaves are none.
    """
    if page.shared is None:
        return page
    found = entries(page.shared, [decode_leaf(body) for body in page.leaves])
    return msgspec.structs.replace(page, entries=tuple(found), shared=None, leaves=())


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
