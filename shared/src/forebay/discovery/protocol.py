"""What every registry does for a process: make it known, and keep it up to date about the others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from forebay.contracts import ClusterMap, Member
from forebay.runtime import Deadline


class Registry(Protocol):
    """One process's connection to the cluster's registry. For one event loop; ``close`` before the loop ends.

    Electing a leader is not part of it yet: the only changes that need one are of the namespace, and come with it. The
    map needs none, its writers compare and set.
    """

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
