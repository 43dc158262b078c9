"""From the znodes of those who are there to the next map: the decisions of ZooKeeper's map writer. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from forebay.contracts import ClusterMap, Member
from forebay.discovery.leases import MEMBERS_MAX, as_down
from forebay.discovery.maps import next_map


@dataclass(frozen=True)
class Census:
    """What one writer knows. ``missing`` says since when (monotonic seconds) it has missed whom; a writer that takes
    over begins to count anew, so a member may stay down for longer than ``down_s``, never for less."""

    missing: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The next map (the previous one where nothing changed), the census to go on with, and how long until time alone
    changes something (``None``: never)."""

    cluster_map: ClusterMap
    census: Census
    due_s: float | None
    refused: tuple[str, ...] = ()


def take(
    census: Census,
    previous: ClusterMap,
    present: Mapping[str, Member],
    withdrawn: Collection[str],
    *,
    now_s: float,
    down_s: float,
) -> Outcome:
    """One look at the znodes.

    ``present`` are the members with a znode, ``withdrawn`` the ids marked as having left. A member of the previous
    map without a znode is out if it left or has been missing for ``down_s``, else it is down. Beyond ``MEMBERS_MAX``
    newcomers are refused, by id; those who are in stay in.
    """
    missing: dict[str, float] = {}
    members: dict[str, Member] = {}
    for m in previous.members:
        if m.member_id in present:
            members[m.member_id] = present[m.member_id]
        elif m.member_id not in withdrawn:
            since_s = census.missing.get(m.member_id, now_s)
            if now_s - since_s < down_s:
                missing[m.member_id] = since_s
                members[m.member_id] = m if m.state == "down" else as_down(m)
    newcomers = sorted(set(present) - set(members))
    room = max(0, MEMBERS_MAX - len(members))
    members.update((name, present[name]) for name in newcomers[:room])
    due_s = min((since_s + down_s - now_s for since_s in missing.values()), default=None)
    return Outcome(
        cluster_map=next_map(previous, list(members.values())),
        census=Census(missing),
        due_s=due_s,
        refused=tuple(newcomers[room:]),
    )
