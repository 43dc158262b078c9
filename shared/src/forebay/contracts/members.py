"""What follows from a cluster map alone: who owns blocks, where the masters are."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.contracts.records import ClusterMap, Member

_OWNING_STATES = frozenset({"live", "down"})


def owns_blocks(member: Member) -> bool:
    """Whether ``member`` is part of placement: a worker with a capacity weight that is live, or down and not yet out.

    A joining worker takes its share when it says ``live``; a draining one has given its share away.
    """
    return member.role == "worker" and member.state in _OWNING_STATES and member.capacity_weight > 0


def ownership(members: Sequence[Member]) -> frozenset[tuple[str, float]]:
    """All that placement depends on. Two maps with the same ownership rank every block alike."""
    return frozenset((m.member_id, m.capacity_weight) for m in members if owns_blocks(m))


def master_addresses(cluster_map: ClusterMap | None) -> list[str]:
    """``host:port`` of the masters, by member id; those that are down only where all are."""
    masters = [m for m in cluster_map.members if m.role == "master"] if cluster_map else []
    return [m.tcp for m in masters if m.state != "down"] or [m.tcp for m in masters]


def socket_name(nonce: str) -> str:
    """The Unix socket of a worker in a directory that clients of its host can reach, by the nonce of its first tier:
    who finds it there has found that very worker, and one that a dead worker left has another name."""
    return f"{nonce}.sock"
