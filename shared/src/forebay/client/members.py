"""The cluster map as reads need it: placement, and what is known of recent blocks. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from forebay.balancing import Placement, entry_workers
from forebay.client.plan import STEPS_MAX
from forebay.contracts import ClusterMap, Member

BLOCKS_MAX = 4096
"""Blocks of which something is remembered; a ranking costs a hash per worker."""

REPLICAS_MAX = 16


@dataclass(slots=True)
class KnownBlock:
    """One block under the present map. ``turn`` counts blocks in the order in which they were first asked for;
    ``offered`` and ``lacking`` are what workers said."""

    ranked: list[Member]
    turn: int
    offered: Member | None = None
    lacking: set[str] = field(default_factory=set)


class Members:
    """For one event loop."""

    def __init__(self) -> None:
        self.map: ClusterMap | None = None
        self.workers: tuple[Member, ...] = ()
        self._placement = Placement.over(())
        self._blocks: OrderedDict[str, KnownBlock] = OrderedDict()
        self._turn = 0

    def update(self, cluster_map: ClusterMap) -> None:
        """A new map; what is known of blocks is found anew (a member's state may have changed within an epoch)."""
        self.map = cluster_map
        self.workers = entry_workers(cluster_map.members)
        self._placement = Placement(cluster_map)
        self._blocks.clear()

    def block(self, block_id: str) -> KnownBlock:
        """Its owners, home first (enough for replicas and fallback), and what workers said of it."""
        known = self._blocks.get(block_id)
        if known is None:
            known = KnownBlock(self._placement.ranked(block_id, REPLICAS_MAX + STEPS_MAX), self._turn)
            self._turn += 1
            self._blocks[block_id] = known
            if len(self._blocks) > BLOCKS_MAX:
                self._blocks.popitem(last=False)
        return known

    def member(self, member_id: str) -> Member | None:
        """The worker of that id, if it answers reads."""
        return next((m for m in self.workers if m.member_id == member_id), None)

    def addresses(self) -> dict[str, str]:
        """Where the members of the map listen, by their ids."""
        return {m.member_id: m.tcp for m in (self.map.members if self.map else ())}
