"""Where a read goes: to the tiers, into a fill, past them, or to the block's home. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from forebay.balancing import Placement
from forebay.contracts import ClusterMap, Member
from forebay.contracts.records import ReadType

REMEMBERED_MAX = 8192
"""Blocks that this worker remembers something of."""

RANKED_MAX = 20
"""How far down a block's ranking this worker looks: past 16 replicas and as many failures as it can bear."""

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
    is_spare: bool = False


def route(options: ReadOptions, *, is_here: bool, is_fitting: bool, has_home_elsewhere: bool, passive: bool) -> Route:
    """``is_here``: every byte asked for is present. ``is_fitting``: the block here, if any, has the length that the
    client claims; otherwise the under store must judge, past the tiers.

    ``CACHE_PROMOTE`` goes the ways of ``CACHE``; a block that is found on a disk is moved to memory afterwards.
    """
    if is_here and is_fitting:
        return Route.TIER
    if options.only_if_cached:
        return Route.NOT_CACHED
    if options.read_type == "NO_CACHE" or not is_fitting or (has_home_elsewhere and not passive):
        return Route.THROUGH
    return Route.FILL


@dataclass(frozen=True)
class _Known:
    """What maps say of one block, and who was found to lack it."""

    ranked: list[Member]
    earlier: list[Member]
    lacking: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Upstream:
    """Whom a read of a block that is not here may ask before the under store.

    ``home`` is read through (it fills). Without one this worker fills: ``probes`` may hold the block and are asked
    ``only-if-cached``, first of all ``ahead``, the home in whose place this worker was asked; ``second`` takes blocks
    that this worker's policy does not admit. ``is_owner``: this worker is home, stands in for it, or is to keep a
    replica.
    """

    home: Member | None = None
    probes: tuple[Member, ...] = ()
    ahead: Member | None = None
    second: Member | None = None
    is_owner: bool = True


PROBES_MAX = 2


def upstream(
    me: str,
    ranked: Sequence[Member],
    earlier_homes: Sequence[Member],
    *,
    replicas: int,
    is_hop: bool,
    is_up: Callable[[Member], bool],
) -> Upstream:
    """What worker ``me`` asks for a block, by its own map (``ranked``, home first) and the homes of earlier maps.

    No loop can come of it, whatever maps two workers hold: only a request that is no hop is read through a home, and
    what is sent on is a hop; probes cause nothing at all. So a request passes two workers, and two more are probed.
    """
    up = [m for m in ranked if m.member_id == me or is_up(m)]
    place = next((i for i, m in enumerate(up) if m.member_id == me), len(up))
    is_replica = any(m.member_id == me for m in ranked[:replicas])
    if place > 0 and up and not is_hop:
        # Also for a worker so far down the ranking that it does not see itself: it is no home.
        return Upstream(home=up[0], is_owner=is_replica)
    ahead = up[0] if place > 0 else None
    after = up[place + 1 :]
    earlier = [m for m in earlier_homes if m.member_id != me and is_up(m)]
    names = {m.member_id: m for m in (*([ahead] if ahead is not None else []), *earlier[:1], *after[:1])}
    second = after[0] if after and place == 0 and not is_hop else None
    return Upstream(probes=tuple(names.values())[:PROBES_MAX], ahead=ahead, second=second)


class SecondReads:
    """Which extents of blocks passed through this worker before, so that a replica is filled when somebody reads it
    again, and not by one who reads once. The blocks that were read longest ago are forgotten first."""

    def __init__(self, *, blocks_max: int = REMEMBERED_MAX) -> None:
        self._blocks_max = blocks_max
        self._seen: OrderedDict[str, int] = OrderedDict()

    def is_second(self, block_id: str, extents: range) -> bool:
        """Whether one of the extents passed before; they are noted."""
        before = self._seen.pop(block_id, 0)
        bits = ((1 << len(extents)) - 1) << extents.start
        self._seen[block_id] = before | bits
        if len(self._seen) > self._blocks_max:
            self._seen.popitem(last=False)
        return bool(before & bits)


class Homes:
    """Who is home for a block, as far as this worker knows; members that failed lately are skipped.

    A stranger to the map (not announced yet, or taken out) is home to nothing and forwards like any entry worker.
    Rankings of recent blocks are remembered until the map changes, and so is who was probed in vain.
    """

    def __init__(self, member_id: str, clock: Callable[[], float]) -> None:
        self._member_id = member_id
        self._clock = clock
        self._placement: Placement | None = None
        self._earlier: tuple[Placement, ...] = ()
        self._present: dict[str, Member] = {}
        self._suspect_until: dict[str, float] = {}
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def see(self, cluster_map: ClusterMap, history: Sequence[ClusterMap] = ()) -> None:
        """Takes a newer map; ``history`` are the maps before it, newest first."""
        self._placement = Placement(cluster_map)
        self._earlier = tuple(Placement(m) for m in history if m.epoch < cluster_map.epoch)
        self._present = {m.member_id: m for m in cluster_map.members}
        self._suspect_until = {n: until for n, until in self._suspect_until.items() if n in self._present}
        self._known.clear()

    def upstream(self, block_id: str, *, replicas: int = 1, is_hop: bool = False) -> Upstream:
        """Whom to ask for a block that is not here."""
        known = self._of(block_id)
        return upstream(
            self._member_id, known.ranked, known.earlier, replicas=replicas, is_hop=is_hop, is_up=self._is_up
        )

    def owners(self, block_id: str, replicas: int) -> list[Member]:
        """The first ``replicas`` of the block's ranking, up or not."""
        return self._placement.ranked(block_id, replicas) if self._placement is not None else []

    def _earlier_homes(self, block_id: str) -> list[Member]:
        """Homes of earlier maps, latest first, where they were others than the map after said; as they are now."""
        now = self._placement.home(block_id) if self._placement is not None else None
        last, found = now.member_id if now is not None else "", []
        for placement in self._earlier:
            home = placement.home(block_id)
            if home is not None and home.member_id != last:
                last = home.member_id
                found += [self._present[last]] if last in self._present else []
        return found

    def _of(self, block_id: str) -> _Known:
        known = self._known.get(block_id)
        if known is None:
            ranked = [] if self._placement is None else self._placement.ranked(block_id, RANKED_MAX)
            known = self._known[block_id] = _Known(ranked, self._earlier_homes(block_id))
            if len(self._known) > REMEMBERED_MAX:
                self._known.popitem(last=False)
        return known

    def is_known_to_lack(self, member_id: str, block_id: str) -> bool:
        """Whether the member was probed for the block under this map and did not hold it."""
        known = self._known.get(block_id)
        return known is not None and member_id in known.lacking

    def lacks(self, member_id: str, block_id: str) -> None:
        """The member was probed and does not hold the block."""
        if block_id in self._known:
            self._known[block_id].lacking.add(member_id)

    def failed(self, member_id: str) -> None:
        """The member did not answer."""
        self._suspect_until[member_id] = self._clock() + SUSPECT_S

    def _is_up(self, member: Member) -> bool:
        # A draining member owns nothing and answers what it holds.
        able = member.state in {"live", "draining"}
        return able and self._suspect_until.get(member.member_id, 0.0) <= self._clock()
