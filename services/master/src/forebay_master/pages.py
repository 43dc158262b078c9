"""One page of a directory: rows of the under store's listing and the names that mounts put there, merged. Pure.

Both come in byte order of names (Python orders text by code point, which is the order of UTF-8 bytes); where both have
a name, the mount hides what is in the under store.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import merge

from forebay.contracts import Entry, ListReply
from forebay_master import freshness
from forebay_master.entries import Origin, Row, given_directory
from forebay_master.namespace import Place, join
from forebay_master.paging import Cursor, make_token


@dataclass(frozen=True)
class PageRequest:
    """A checked request for a page: ``tag`` names the directory in tokens, ``cursor`` is where to go on."""

    place: Place
    tag: bytes
    cursor: Cursor | None
    limit: int

    @property
    def after(self) -> str:
        """The last name that was given; "" at the beginning."""
        return self.cursor.after if self.cursor else ""

    @property
    def rows_wanted(self) -> int:
        """Rows that suffice to fill the page and to know whether there is another."""
        return self.limit + 1 + len(self.place.below)


def build_page(
    request: PageRequest, rows: Sequence[Row], *, synced_at_s: float, now_s: float, before: str | None = None
) -> ListReply:
    """The page. ``rows``: the first ``rows_wanted`` behind ``after`` (fewer when there are no more). ``before``: only
    names below it are known yet, so there is more."""
    mount = request.place.mount
    entries = _entries(request, rows)
    if before is not None:
        entries = [entry for entry in entries if entry.name < before]
    more = len(entries) > request.limit or before is not None
    page = entries[: request.limit]
    begun_with_s = request.cursor.begun_with_s if request.cursor else synced_at_s
    max_age_s = freshness.listing_age_of(mount, request.place.key) if mount else freshness.NAMESPACE_VALID_S
    return ListReply(
        entries=tuple(page),
        mount_id=mount.mount_id if mount else None,
        next_page_token=make_token(request.tag, Cursor(begun_with_s, page[-1].name)) if more and page else None,
        synced_at_s=synced_at_s,
        valid_s=freshness.valid_s(synced_at_s, max_age_s, now_s),
    )


def _entries(request: PageRequest, rows: Sequence[Row]) -> list[Entry]:
    place = request.place
    below = place.below[bisect_right(place.below, request.after) :]
    hidden = set(below)
    if place.mount is None:
        found: list[Entry] = []
    else:
        shown = [row for row in rows if row.name not in hidden] if hidden else rows
        found = Origin.of(place.mount, place.key).entries(shown)
    if not below:
        return found
    given = (given_directory(join(place.path, name)) for name in below)
    return list(merge(found, given, key=lambda entry: entry.name))
