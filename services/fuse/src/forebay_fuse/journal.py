"""What a gateway writes down so that another process can go on with its mount: the records, and where they go.

The rule: **first the journal, then the answer.** Whatever the kernel is told about (a node id, a lookup more, a handle,
a backing file) is written down before the reply that tells it. What is written between two replies belongs to the next
reply, as one group that a successor takes whole or not at all; so nothing is awaited between a change of a table and
the reply that tells the kernel of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from forebay.contracts import Entry
from forebay.contracts.packed import unpack_entry

OpenMode = Literal["cached", "direct", "passthrough", "dir"]


class InodeRecord(Struct, array_like=True, gc=False):
    """All that a successor needs to answer for a node id, reads without a master included: ``packed`` is the entry with
    its layout (`pack_entry`), ``number`` its inode number."""

    directory: str
    packed: bytes
    number: int
    is_dir: bool
    mount_id: str | None
    lookups: int

    @property
    def entry(self) -> Entry:
        """What the master said."""
        return unpack_entry(self.packed)


class OpenRecord(NamedTuple):
    """An open file or directory. ``backing_id`` is 0 unless it is passed through."""

    node: int
    mode: OpenMode
    backing_id: int = 0


class InitRecord(NamedTuple):
    """What was agreed on with the kernel. It says so once: a successor has to keep to it."""

    minor: int
    flags: int
    max_pages: int
    max_background: int


class SessionRecord(NamedTuple):
    """The kernel's session: which directory of the namespace it shows, where it was asked for and where it is mounted,
    by ``mount(2)`` or not, and its ``major:minor``."""

    root: str
    asked: str
    mountpoint: str
    privileged: bool
    number: str | None


class Journal(Protocol):
    """Where the state goes. Cheap, never waits, raises nothing a request could cause."""

    def inode(self, node: int, record: InodeRecord) -> None:
        """A node id that is new to the kernel, or of which more is to be told than ``lookups``."""

    def lookups(self, node: int, count: int) -> None:
        """How many lookups of it the kernel holds from the next reply on; 0 drops the record."""

    def opened(self, fh: int, record: OpenRecord) -> None:
        """A handle, before OPEN or OPENDIR is answered."""

    def released(self, fh: int) -> None:
        """A handle is gone."""

    def negotiated(self, record: InitRecord) -> None:
        """INIT, before it is answered."""

    def settle(self) -> None:
        """A request has ended: what it changed after its reply (or for want of one) is written down as well."""


class Intake(Protocol):
    """Where requests are read to, and until when they stay there: a journal of requests in flight."""

    def room(self) -> memoryview | None:
        """Where the next request goes; ``None``: there is none until something was answered."""

    def came(self, request: memoryview) -> bool:
        """A request was read into ``room()``; False if it has been there too often, when gateways died."""

    def handled(self, request: memoryview) -> None:
        """The gateway has seen it; its reply may be still to come."""

    def answering(self, unique: int) -> None:
        """The reply is the next that the kernel hears."""

    def answered(self, unique: int) -> None:
        """The kernel has the reply, or did not want it."""


class Buffer:
    """One buffer for each request in turn: an intake that keeps nothing."""

    def __init__(self, size: int) -> None:
        self._room = memoryview(bytearray(size))

    def room(self) -> memoryview:
        """The buffer."""
        return self._room

    def came(self, request: memoryview) -> bool:
        """Fine."""
        return True

    def handled(self, request: memoryview) -> None:
        """Nothing."""

    def answering(self, unique: int) -> None:
        """Nothing."""

    def answered(self, unique: int) -> None:
        """Nothing."""


class NoJournal:
    """A gateway without a keeper writes nothing down."""

    def inode(self, node: int, record: InodeRecord) -> None:
        """Nothing."""

    def lookups(self, node: int, count: int) -> None:
        """Nothing."""

    def opened(self, fh: int, record: OpenRecord) -> None:
        """Nothing."""

    def released(self, fh: int) -> None:
        """Nothing."""

    def negotiated(self, record: InitRecord) -> None:
        """Nothing."""

    def settle(self) -> None:
        """Nothing."""


@dataclass(slots=True)
class Kept:
    """What a journal says in the end: the input of ``restore`` of the tables.

    ``node_max`` and ``fh_max`` are the highest numbers ever given out: a successor goes on above them. Handles refer to
    inodes that are in ``inodes``, for the kernel forgets no inode that is open.
    """

    inodes: dict[int, InodeRecord] = field(default_factory=dict)
    opens: dict[int, OpenRecord] = field(default_factory=dict)
    session: SessionRecord | None = None
    init: InitRecord | None = None
    node_max: int = 1
    fh_max: int = 0

    @property
    def backing(self) -> Mapping[int, int]:
        """Backing id of each node that is passed through."""
        return {o.node: o.backing_id for o in self.opens.values() if o.backing_id}
