"""What the gateway needs of the client SDK, as types: `forebay.client` fits, and so does a test's double."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from forebay.contracts import ChangesReply, Layout, ListReply, LookupReply
from forebay.errors import NotFound


class Block(Protocol):
    """A whole block as an open file of this host. Use ``fd`` before the next await."""

    @property
    def fd(self) -> int:
        """Open for reading."""

    @property
    def length(self) -> int:
        """Bytes of the block."""

    @property
    def tier(self) -> str:
        """``MEM`` is on tmpfs: reading it never waits for a disk."""

    def count(self, read_bytes: int) -> None:
        """Tells that bytes were read past the worker."""

    def detach(self) -> None:
        """Closes ``fd``; the block still counts as open."""

    def again(self) -> None:
        """A detached block was opened once more."""

    def close(self) -> None:
        """The block is no longer open."""


class Reader(Protocol):
    """One version of one file, open."""

    @property
    def size(self) -> int:
        """Bytes of the file."""

    async def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fills ``buffer``; short only at the end of the file."""

    def peek(self, offset: int, length: int) -> list[memoryview] | None:
        """The bytes if they are in memory already; good until the next await."""

    async def arrived(self, offset: int, length: int) -> list[memoryview] | None:
        """As ``peek``, once what is on its way has come; ``None`` if nothing is, or it failed."""

    def local_block(self, index: int) -> Block | None:
        """The whole block as a file of this host, if it is here."""

    def free(self) -> None:
        """Frees everything."""


class Client(Protocol):
    """Names and readers."""

    def held(self, path: str) -> LookupReply | NotFound | None:
        """What a lookup would answer without asking anybody."""

    async def lookup(self, path: str) -> LookupReply:
        """Attributes and layout; NotFound."""

    async def list_page(self, path: str, page_token: str | None = None, limit: int = 10_000) -> ListReply:
        """One page of a directory."""

    async def changes(self, after: str | None) -> ChangesReply:
        """What a master found to have changed since a cursor (``None``: from now on), as soon as there is something."""

    async def hint(
        self, files: Sequence[str], *, epoch: int = 0, seed: int = 0, rank: int = 0, is_next: bool = False
    ) -> int:
        """Tells the workers what will be read; NotFound, InvalidRequest."""

    def open_layout(self, mount_id: str, layout: Layout, path: str) -> Reader:
        """A reader of the version that ``layout`` names."""

    def open_block(self, layout: Layout) -> Block | None:
        """The whole of a file of one block as an open file of this host, if it is here; close it."""

    def is_home_here(self, layout: Layout) -> bool:
        """Whether a worker of this host would fill the file's first block into a directory that can be read here."""

    def homes(self, layout: Layout, limit: int) -> Sequence[str]:
        """The home of each of the first blocks."""

    def blocks_here(self, layout: Layout, limit: int) -> int:
        """How many of the first blocks lie whole in directories of this host."""

    def note_open(self, path: str) -> None:
        """A program opened the file at ``path``."""

    def accessed_s(self, path: str) -> float | None:
        """When a file was last opened (Unix time), as far as that is told."""

    def forget(self, path: str) -> None:
        """The next lookup of ``path`` asks a master."""
