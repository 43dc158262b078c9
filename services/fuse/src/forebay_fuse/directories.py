"""An open directory: a stream of the master's pages with offsets that stay, of which only some pages are held.

Offset *n* is the *n*-th entry of the stream, ``.`` and ``..`` being the first two. A page that was let go is asked for
again by its token when somebody seeks back, so a directory of millions of names costs some pages of memory.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from dataclasses import dataclass, field

from forebay.contracts import Entry, ListReply
from forebay.errors import PeerMisbehaved
from forebay_fuse.ahead import PAGE_NAMES, Ahead, Coming
from forebay_fuse.inodes import Inode, child
from forebay_fuse.recent import Recent
from forebay_fuse.sdk import Client

DOTS = 2
"""Names that stand before the master's, where nothing else is shown."""

PAGES_HELD = 4
NAME_MAX = 255


@dataclass(frozen=True, slots=True)
class Page:
    """Names from ``start`` on (counted without the dots), and until when they may be kept (``None``: for ever);
    ``asked``: up to which change (`recent`) the master knew them.

    An entry that is ``None`` is a name that went away between two readings of the page.
    """

    start: int
    entries: tuple[Entry | None, ...]
    mount_id: str | None
    good_until_s: float | None
    asked: int = 0

    def left_s(self, now_s: float) -> float | None:
        """How long from now its names may be kept."""
        return None if self.good_until_s is None else max(0.0, self.good_until_s - now_s)


@dataclass(slots=True)
class OpenDir:
    """Invariants: (1) at most `PAGES_HELD` pages are held; (2) ``starts`` rises, one token for each, and one last name
    for each page but the newest; (3) ``count`` is known exactly when the last page was seen."""

    inode: Inode
    dots: int = DOTS
    path: str = field(init=False)
    starts: list[int] = field(default_factory=lambda: [0])
    tokens: list[str | None] = field(default_factory=lambda: [None])
    lasts: list[bytes] = field(default_factory=list)
    pages: dict[int, Page] = field(default_factory=dict)
    count: int | None = None
    coming: Coming | None = None

    def __post_init__(self) -> None:
        self.path = self.inode.path

    def restart(self, ahead: Ahead) -> None:
        """Begins anew, as ``rewinddir`` wants it: the next page comes from the master."""
        self.free(ahead)
        self.starts, self.tokens, self.lasts, self.count = [0], [None], [], None
        self.pages.clear()

    def page_at(self, index: int) -> Page | None:
        """The page with the name at ``index`` (without the dots), if it is held."""
        page = self.pages.get(self._page_of(index))
        return None if page is None or index - page.start >= len(page.entries) else page

    def find(self, index: int) -> tuple[Page, Entry | None] | None:
        """The name at ``index`` (without the dots) and its page, if that is held."""
        page = self.page_at(index)
        return None if page is None else (page, page.entries[index - page.start])

    def ends_before(self, index: int) -> bool:
        """Whether there is surely no name at ``index``."""
        return self.count is not None and index >= self.count

    async def bring(self, client: Client, index: int, recent: Recent, ahead: Ahead) -> None:
        """Fetches pages until the name at ``index`` is held or the directory is known to end before it."""
        while not self.ends_before(index) and self.find(index) is None:
            await self._fetch(client, self._page_of(index), recent, ahead)

    def take(self, client: Client, recent: Recent, ahead: Ahead) -> bool:
        """Takes the page that was fetched ahead, if it has come and is the next."""
        coming = self.coming
        if coming is None or not coming.is_here or coming.token != self.tokens[-1]:
            return False
        self.coming = None
        self._keep(client, len(self.starts) - 1, coming.task.result(), recent, coming.asked)
        self._go_ahead(recent, ahead)
        return True

    def free(self, ahead: Ahead) -> None:
        """Lets go of what is on its way."""
        if self.coming is not None:
            ahead.drop(self.coming)
            self.coming = None

    def _page_of(self, index: int) -> int:
        return bisect_right(self.starts, index) - 1

    async def _fetch(self, client: Client, number: int, recent: Recent, ahead: Ahead) -> None:
        token, asked, coming = self.tokens[number], recent.number, self.coming
        if coming is not None and coming.token == token:
            self.coming, asked = None, coming.asked
            reply = await coming.task
        else:
            reply = await client.list_page(self.path, token, PAGE_NAMES)
        if number >= len(self.starts) or self.tokens[number] != token:
            return  # it was rewound meanwhile
        self._keep(client, number, reply, recent, asked)
        self._go_ahead(recent, ahead)

    def _go_ahead(self, recent: Recent, ahead: Ahead) -> None:
        """Has the page after the newest fetched, unless the listing ends there."""
        token = self.tokens[-1]
        if self.coming is None and token is not None and self.count is None:
            self.coming = ahead.fetch(self.path, token, recent.number)

    def _keep(self, client: Client, number: int, reply: ListReply, recent: Recent, asked: int) -> None:
        if recent.lies_in(self.path, asked):  # what the SDK has of this page may be old
            for entry in reply.entries:
                client.forget(child(self.path, entry.name))
        start = self.starts[number]
        entries: tuple[Entry | None, ...] = tuple(entry for entry in reply.entries if is_name(entry.name))
        if number == len(self.starts) - 1:
            last = encode_name(reply.entries[-1].name) if reply.entries else b""
            self._learn(start + len(entries), last, reply.next_page_token)
        else:
            entries = self._fit(number, entries)
        until_s = None if reply.valid_s is None else time.monotonic() + reply.valid_s
        self.pages.pop(number, None)
        self.pages[number] = Page(start, entries, reply.mount_id, until_s, asked)
        while len(self.pages) > PAGES_HELD:
            del self.pages[next(iter(self.pages))]

    def _learn(self, end: int, last: bytes, token: str | None) -> None:
        self.count = end if token is None else None
        if token is None:
            return
        if end == self.starts[-1] and token == self.tokens[-1]:
            raise PeerMisbehaved("a listing that does not go on: no names, and the same token again")
        if end == self.starts[-1]:  # a page without names: its place is taken by the next
            self.tokens[-1] = token
        else:
            self.starts.append(end)
            self.tokens.append(token)
            self.lasts.append(last)

    def _fit(self, number: int, entries: tuple[Entry | None, ...]) -> tuple[Entry | None, ...]:
        """A page that is read again, in its old place: names may have come and gone, offsets and neighbours stay."""
        room = self.starts[number + 1] - self.starts[number]
        own = [e for e in entries if e is not None and encode_name(e.name) <= self.lasts[number]][:room]
        return (*own, *(None for _ in range(room - len(own))))

    def validate(self) -> None:
        """Checks the invariants."""
        assert len(self.pages) <= PAGES_HELD
        assert len(self.starts) == len(self.tokens) == len(self.lasts) + 1
        assert self.starts == sorted(set(self.starts))


def is_name(name: str) -> bool:
    """Whether the kernel takes ``name``: one bad one and it refuses the whole listing."""
    if 2 < len(name) <= NAME_MAX and name.isascii() and "/" not in name and "\0" not in name:
        return True  # nearly all are
    data = encode_name(name)
    return 0 < len(data) <= NAME_MAX and name not in (".", "..") and b"/" not in data and b"\0" not in data


def encode_name(name: str) -> bytes:
    """The bytes of a name."""
    return name.encode("utf-8", "surrogateescape")
