"""Where a read goes: to the tiers, into a fill, past them, or to the block's home. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from forebay.balancing import Placement
from forebay.contracts import ClusterMap, Member
from forebay.contracts.records import ReadType

SUSPECT_S = 5.0
"""How long a home that failed is not asked again; its blocks are filled here meanwhile."""


class Route(Enum):
    """What to do with one read."""

    TIER = "tier"
    FILL = "fill"
    THROUGH = "through"
    NOT_CACHED = "not_cached"


@dataclass(frozen=True)
class ReadOptions:
    """What the request says beside block and range."""

    read_type: ReadType = "CACHE"
    is_hop: bool = False
    only_if_cached: bool = False


def route(options: ReadOptions, *, is_here: bool, is_fitting: bool, has_home_elsewhere: bool, passive: bool) -> Route:
    """``is_here``: every byte asked for is present. ``is_fitting``: the block here, if any, has the length that the
    client claims; otherwise the under store must judge, past the tiers.

    ``CACHE_PROMOTE`` is ``CACHE`` until blocks move between tiers.
    """
    if is_here and is_fitting:
        return Route.TIER
    if options.only_if_cached:
        return Route.NOT_CACHED
    if options.read_type == "NO_CACHE" or not is_fitting or (has_home_elsewhere and not passive):
        return Route.THROUGH
    return Route.FILL


class Homes:
    """Who is home for a block, as far as this worker knows; members that failed lately are skipped.

    A stranger to the map (not announced yet, or taken out) is home to nothing and forwards like any entry worker.
    """

    def __init__(self, member_id: str, clock: Callable[[], float]) -> None:
        self._member_id = member_id
        self._clock = clock
        self._placement: Placement | None = None
        self._suspect_until: dict[str, float] = {}

    def see(self, cluster_map: ClusterMap) -> None:
        """Takes a newer map."""
        self._placement = Placement(cluster_map)
        members = {member.member_id for member in cluster_map.members}
        self._suspect_until = {name: until for name, until in self._suspect_until.items() if name in members}

    def elsewhere(self, block_id: str) -> Member | None:
        """The first in the block's ranking that is up, if that is not this worker."""
        if self._placement is None:
            return None
        home = self._placement.home(block_id)
        if home is None or home.member_id == self._member_id:
            return None
        if self._is_up(home):
            return home
        ranked = self._placement.ranked(block_id, len(self._placement.owners))
        first = next((m for m in ranked if m.member_id == self._member_id or self._is_up(m)), None)
        return None if first is None or first.member_id == self._member_id else first

    def suspect(self, member_id: str) -> None:
        """The member did not answer."""
        self._suspect_until[member_id] = self._clock() + SUSPECT_S

    def _is_up(self, member: Member) -> bool:
        return member.state == "live" and self._suspect_until.get(member.member_id, 0.0) <= self._clock()
