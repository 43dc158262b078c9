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


FILLING_S = 10.0
"""A block is taken for one that is being filled so long after it was first asked for, or came from the under store."""


@dataclass(frozen=True, slots=True)
class Filler:
    """The member that fills a block, as far as its answers tell. ``is_sure``: bytes came from the under store."""

    member_id: str
    until_s: float
    is_sure: bool = False


@dataclass(slots=True)
class KnownBlock:
    """One block under the present map. ``turn`` counts blocks in the order in which they were first asked for;
    ``offered`` and ``lacking`` are what workers said."""

    ranked: list[Member]
    turn: int
    offered: Member | None = None
    lacking: set[str] = field(default_factory=set)
    _filler: Filler | None = None
    _held_by: str | None = None

    def asked(self, member_id: str, now_s: float) -> None:
        """A member is asked for it; the first one may have to fill it."""
        if self._filler is None:
            self._filler = Filler(member_id, now_s + FILLING_S)

    def came(self, member_id: str, now_s: float, *, from_tier: bool) -> None:
        """Bytes of it came from a tier of the member, or from what lies behind the member."""
        if from_tier:
            self._held_by = member_id
        elif self._held_by == member_id:
            self._held_by = None
        if not from_tier:
            self._filler = Filler(member_id, now_s + FILLING_S, is_sure=True)
        elif self._filler is not None and not self._filler.is_sure and self._filler.member_id == member_id:
            self._filler = Filler(member_id, now_s)  # it was there already

    def filler(self, now_s: float) -> str | None:
        """Who fills it now. Another member would fill it a second time."""
        filler = self._filler
        return filler.member_id if filler is not None and now_s < filler.until_s else None

    def is_held_by(self, member_id: str) -> bool:
        """Whether the last answer that came from a tier was this member's: its next one will be as well."""
        return self._held_by == member_id


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
