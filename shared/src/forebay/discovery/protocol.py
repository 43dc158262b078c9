"""What every registry does for a process: make it known, and keep it up to date about the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from forebay.contracts import ClusterMap, Member
from forebay.discovery.terms import Leader, Table
from forebay.runtime import Deadline


class Ledger(Protocol):
    """Tables of small records, the same for all who take part in an election; only the leader writes them."""

    def table(self, name: str) -> Table | None:
        """The table as last heard; ``None`` before it was first read.

        Raises:
            NotFound: no table of that name was asked for.
        """

    async def changed(self, name: str, after: int, timeout_s: float) -> Table | None:
        """The table once its revision is not ``after``, or ``None`` after ``timeout_s``."""

    async def commit(self, name: str, changes: Mapping[str, bytes | None], *, after: int) -> Table:
        """Makes all of ``changes`` (``None`` removes a record) or none, on top of revision ``after``; the new table.

        Raises:
            NotLeader: another leads; nothing was changed, whatever this process believed (``details["leader"]``).
            Conflict: the table is at another revision. InvalidRequest, TooLarge: see ``terms.changed_table``.
            PeerUnavailable, DeadlineExceeded: it may have been made; the table will tell.
        """


class Election(Protocol):
    """One process's part in choosing the leader. For one event loop; ``close`` before the loop ends."""

    @property
    def ledger(self) -> Ledger | None:
        """What the leader writes; ``None`` where one master alone keeps everything itself."""

    def leader(self) -> Leader | None:
        """The leader as last heard, however old; ``None`` before the first."""

    def is_leading(self) -> bool:
        """Whether this process leads, as far as it can know. It may be wrong (a process that was stopped does not
        know for how long): what must be true is checked by each write."""

    async def changed(self, epoch: int, timeout_s: float) -> Leader | None:
        """A leader of another epoch than that, or ``None`` after ``timeout_s``."""

    async def close(self) -> None:
        """Takes part no longer; a leader makes room at once."""


class Registry(Protocol):
    """One process's connection to the cluster's registry. For one event loop; ``close`` before the loop ends."""

    async def start(self, deadline: Deadline) -> None:
        """Returns when the registry has answered. Unreachable: says so in the log and keeps trying.

        Raises:
            PeerUnavailable: nothing answered until the deadline; the message names the address.
            PeerMisbehaved: the registry is another cluster's.
        After an error, too, ``close`` ends what was begun.
        """

    async def announce(self, member: Member, *, succeeds: Collection[str] = ()) -> None:
        """Makes ``member`` known and keeps it so until ``withdraw`` or ``close``, over outages and lost sessions.

        ``succeeds`` are nonces that this process found in tier directories which it holds now: a member of the same id
        that announced one of them is dead, and its lease need not be waited for.

        Called again it is an update: at once, except that a change of the serving weight or of the free bytes alone is
        published at most every ``RegistryOptions.serving_period_s`` (and this returns without waiting for it).

        Raises:
            Conflict: another member holds the id (``details``: who, where) and did not go away within
                ``conflict_wait_s``. What ``leases.check_member`` raises.
            PeerUnavailable: not published within ``announce_timeout_s``; goes on trying.
        """

    async def withdraw(self) -> None:
        """Takes the announced member out of the cluster for good: it is out at once, its blocks find new homes. Not
        announced: nothing happens. An unreachable registry finds out by itself when the lease ends."""

    def is_announced(self) -> bool:
        """Whether others see the announced member, as far as this process can know: false once its own lease timer,
        started at the last contact, has run out."""

    def current(self) -> ClusterMap | None:
        """The last good map, however old (see ``age_s``); ``None`` before the first."""

    def history(self) -> tuple[ClusterMap, ...]:
        """The last maps this process saw, one an epoch, newest first, at most ``maps.EPOCHS_KEPT``."""

    def age_s(self) -> float:
        """Seconds since the registry was last heard."""

    async def changed(self, after_revision: int, timeout_s: float) -> ClusterMap | None:
        """The next map newer than ``after_revision``, or ``None`` after ``timeout_s``."""

    def elect(self, candidate: Member, *, tables: tuple[str, ...] = ()) -> Election:
        """Takes part in choosing the leader, and follows ``tables``; the caller closes it.

        Raises:
            InvalidRequest: an embedded registry is led by the master that serves it, by nobody else.
        """

    async def close(self) -> None:
        """Ends everything. An announced member is down now and out later: a restart keeps its place."""


@dataclass(frozen=True)
class RegistryOptions:
    """Times of a registry connection, in seconds."""

    ttl_s: float = 10.0
    """How long a member that is not heard counts as there: lease (embedded) or session (ZooKeeper)."""

    call_timeout_s: float = 5.0
    """One call to the registry."""

    poll_s: float = 25.0
    """How long the embedded registry may hold a long poll."""

    refresh_s: float = 30.0
    """How old a map may get when no watch says anything: it is read again, or asked for anew, by then."""

    retry_min_s: float = 0.2
    retry_max_s: float = 3.0
    """Pause after a failure: doubles from the first to the second."""

    serving_period_s: float = 30.0
    """A serving weight alone is published no more often (ZooKeeper did 440 writes/s: it is no gossip channel)."""

    conflict_wait_s: float = 15.0
    """How long ``announce`` waits for an earlier member of the same id to go away; above ``ttl_s``, so that a
    process restarted at another address gets its id back."""

    announce_timeout_s: float = 30.0
    """How long ``announce`` waits for the registry."""
