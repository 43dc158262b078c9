"""The registry in memory: several ``MemoryRegistry`` share one ``MemoryCluster``, and a test moves its members.

No time passes by itself: nobody is down or out unless the test says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from forebay.contracts import ClusterMap, Member
from forebay.discovery.leases import as_down, check_member, refusal
from forebay.discovery.maps import MapCell, next_map
from forebay.errors import PeerUnavailable
from forebay.runtime import Deadline
from forebay.testing.elections import MemoryElection, MemoryElections


class MemoryCluster:
    """What a registry knows. ``is_reachable`` false: no news and no changes, as in an outage."""

    def __init__(self, cluster_id: str = "forebay", members: Sequence[Member] = ()) -> None:
        self.cluster_id = cluster_id
        self.is_reachable = True
        self.map = next_map(ClusterMap(cluster_id=cluster_id, epoch=1, revision=1, members=()), members)
        self._holders: dict[str, MemoryRegistry] = {}
        self._followers: set[MemoryRegistry] = set()
        self.elections = MemoryElections()

    def registry(self) -> MemoryRegistry:
        """A new process's registry."""
        return MemoryRegistry(self)

    def set_members(self, *members: Member) -> ClusterMap:
        """Makes exactly these the cluster's members, whoever announced them."""
        self.map = next_map(self.map, members)
        self.spread()
        return self.map

    def put(self, member: Member) -> None:
        """Adds or replaces one member."""
        self.set_members(*(m for m in self.map.members if m.member_id != member.member_id), member)

    def lose(self, member_id: str) -> None:
        """The member vanishes: it is down."""
        self._holders.pop(member_id, None)
        self.set_members(*(as_down(m) if m.member_id == member_id else m for m in self.map.members))

    def remove(self, member_id: str) -> None:
        """The member is out."""
        self._holders.pop(member_id, None)
        self.set_members(*(m for m in self.map.members if m.member_id != member_id))

    def spread(self) -> None:
        """Shows the map to all that follow, if they can hear it."""
        if self.is_reachable:
            for registry in self._followers:
                registry.hear(self.map)

    def follow(self, registry: MemoryRegistry) -> None:
        """Keeps ``registry`` up to date."""
        self._followers.add(registry)
        self.spread()

    def unfollow(self, registry: MemoryRegistry) -> None:
        """Ends ``follow``."""
        self._followers.discard(registry)

    def hold(self, member: Member, registry: MemoryRegistry) -> None:
        """Takes an announcement.

        Raises:
            Conflict: another registry holds the id at another address.
        """
        holder = self._holders.get(member.member_id)
        if holder is not None and holder is not registry:
            known = next(m for m in self.map.members if m.member_id == member.member_id)
            if known.tcp != member.tcp:
                raise refusal("held", member.member_id, known.tcp)
        self._holders[member.member_id] = registry
        self.put(member)

    def is_held(self, member_id: str, registry: MemoryRegistry) -> bool:
        """Whether ``registry`` announced the member and still is the one that did."""
        return self._holders.get(member_id) is registry


class MemoryRegistry:
    """``Registry`` over a ``MemoryCluster`` (its own, if none is given)."""

    def __init__(self, cluster: MemoryCluster | None = None) -> None:
        self.cluster = cluster or MemoryCluster()
        self._cell = MapCell()
        self._member_id: str | None = None

    async def start(self, deadline: Deadline) -> None:
        """Hears the map at once, or fails at once."""
        if not self.cluster.is_reachable:
            raise PeerUnavailable("no registry answers in memory", address="memory")
        self.cluster.follow(self)

    async def announce(self, member: Member, *, succeeds: Collection[str] = ()) -> None:
        """In the map when it returns."""
        check_member(member)
        if not self.cluster.is_reachable:
            raise PeerUnavailable("the registry in memory took no announcement", address="memory")
        self.cluster.hold(member, self)
        self._member_id = member.member_id

    async def withdraw(self) -> None:
        """Out when it returns."""
        if self._member_id is not None and self.is_announced():
            self.cluster.remove(self._member_id)
        self._member_id = None

    def is_announced(self) -> bool:
        """Whether this registry's member is in the map by its own doing."""
        return self._member_id is not None and self.cluster.is_held(self._member_id, self)

    def hear(self, cluster_map: ClusterMap) -> None:
        """The cluster's side: a map arrives."""
        self._cell.offer(cluster_map)

    def current(self) -> ClusterMap | None:
        """The last map heard."""
        return self._cell.current

    def history(self) -> tuple[ClusterMap, ...]:
        """The last maps heard, one an epoch, newest first."""
        return self._cell.history()

    def age_s(self) -> float:
        """Seconds since something was heard."""
        return self._cell.age_s()

    async def changed(self, after_revision: int, timeout_s: float) -> ClusterMap | None:
        """The next map newer than that."""
        return await self._cell.changed(after_revision, timeout_s)

    def elect(self, candidate: Member, *, tables: tuple[str, ...] = ()) -> MemoryElection:
        """A candidate of the cluster's elections."""
        return self.cluster.elections.stand(candidate, tables, lambda: self.cluster.is_reachable)

    async def close(self) -> None:
        """Down now, as when a process stops."""
        self.cluster.unfollow(self)
        if self._member_id is not None and self.is_announced():
            self.cluster.lose(self._member_id)
        self._member_id = None

    def validate(self) -> None:
        """Checks the invariants of its parts; fixtures call it at the end of a test."""
        self._cell.validate()
