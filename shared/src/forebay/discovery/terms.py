"""Leadership and the tables a leader writes, as records and decisions. Pure.

The candidate with the lowest number leads. It says so in one persistent znode, and the version of that znode is the
*fence*: each write of a leader is a transaction that checks it, so one that was paused while another took over can
change nothing, whatever it believes.

A table is a set of small records under one head. The head is written with every change; it carries the revision and
what changed last, so that followers read the difference and not the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from forebay.contracts.codec import Record, decode_stored
from forebay.errors import CallerError, InvalidRequest, PeerMisbehaved, TooLarge

RECENT_MAX = 128
"""Changes that a head remembers; who is further behind reads the whole table."""

RECORDS_MAX = 4096
"""Records of one table."""

RECORD_BYTES_MAX = 64 << 10
"""One record, far below ZooKeeper's 1 MiB."""

KEY_CHARS_MAX = 200
CHANGES_MAX = 64
"""Records of one change."""


class Leader(Record, frozen=True):
    """Who leads: ``tcp`` is where changes go. ``epoch`` grows with every leader; ``session`` tells two lives of one
    member apart."""

    member_id: str
    tcp: str
    epoch: int
    session: str = ""


class TableHead(Record, frozen=True):
    """What a table's own znode holds: ``recent`` are the last changes as (revision, key), oldest first."""

    revision: int
    recent: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """A table as one process knows it."""

    revision: int = 0
    records: Mapping[str, bytes] = field(default_factory=dict)


def parse_leader(data: bytes, path: str) -> Leader:
    """Raises ``PeerMisbehaved``: no record of ours; left for a person to look at."""
    try:
        return decode_stored(Leader, data)
    except CallerError as e:
        raise PeerMisbehaved(f"the leader at {path} cannot be read: {e.message}") from e


def parse_head(data: bytes, path: str) -> TableHead:
    """Raises ``PeerMisbehaved``: no record of ours."""
    try:
        return decode_stored(TableHead, data)
    except CallerError as e:
        raise PeerMisbehaved(f"the table at {path} cannot be read: {e.message}") from e


def candidate_prefix(session: int) -> str:
    """What the names of a session's candidates begin with (a create that seemed to fail may have worked)."""
    return f"{session:016x}-"


def first_candidate(names: Collection[str]) -> str | None:
    """Whose turn it is."""
    return min((name for name in names if name[-10:].isdigit()), key=lambda name: (name[-10:], name), default=None)


def next_leader(previous: Leader | None, member_id: str, tcp: str, session: int, *, least: int) -> Leader:
    """The leader that follows. Where nothing is remembered, epochs begin at ``least`` (the clock: they never fall)."""
    epoch = least if previous is None else previous.epoch + 1
    return Leader(member_id=member_id, tcp=tcp, epoch=epoch, session=f"{session:x}")


def next_head(head: TableHead, keys: Sequence[str]) -> TableHead:
    """The head after one change of ``keys``."""
    revision = head.revision + 1
    return TableHead(revision=revision, recent=(*head.recent, *((revision, key) for key in keys))[-RECENT_MAX:])


def changed_keys(head: TableHead, known: int) -> frozenset[str] | None:
    """What changed since revision ``known``; ``None``: more than the head remembers, or another history."""
    if known > head.revision or not head.recent:
        return frozenset() if known == head.revision else None
    # The oldest revision may be remembered in part only: the next one is the first that is whole.
    is_covered = known >= head.recent[0][0] or (known == 0 and head.recent[0][0] == 1 and len(head.recent) < RECENT_MAX)
    return frozenset(key for revision, key in head.recent if revision > known) if is_covered else None


def changed_table(table: Table, changes: Mapping[str, bytes | None]) -> Table:
    """The table after ``changes`` (``None`` removes).

    Raises:
        InvalidRequest: a key or a record that no table takes. TooLarge: too many.
    """
    for key, data in changes.items():
        if not 0 < len(key) <= KEY_CHARS_MAX:
            raise InvalidRequest(f"a key has 1 to {KEY_CHARS_MAX} characters", key=key[:KEY_CHARS_MAX])
        if data is not None and len(data) > RECORD_BYTES_MAX:
            raise TooLarge(f"a record has at most {RECORD_BYTES_MAX} bytes", key=key, size_bytes=len(data))
    if len(changes) > CHANGES_MAX:
        raise TooLarge(f"one change has at most {CHANGES_MAX} records", limit=CHANGES_MAX)
    records = {**table.records, **{key: data for key, data in changes.items() if data is not None}}
    for key in (key for key, data in changes.items() if data is None):
        records.pop(key, None)
    if len(records) > RECORDS_MAX:
        raise TooLarge(f"a table has at most {RECORDS_MAX} records", limit=RECORDS_MAX)
    return Table(table.revision + 1, records)
