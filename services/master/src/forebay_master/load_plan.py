"""What a load needs of each worker, and whether it has room: told before anything is filled. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from forebay.contracts import StatusReply
from forebay.contracts.loads import LoadShare

CHARGE_UNIT = 4096
"""Files occupy whole pages; workers charge blocks for them."""

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def charge_of(length: int) -> int:
    """Bytes of capacity that a block takes."""
    return -(-length // CHARGE_UNIT) * CHARGE_UNIT


def size_text(count: float) -> str:
    """``1.5 GiB``."""
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:.0f} {UNITS[unit]}" if unit == 0 else f"{count:.1f} {UNITS[unit]}"


@dataclass
class Need:
    """What one worker is to hold. ``by_mount``: charged bytes of each mount."""

    blocks: int = 0
    bytes: int = 0
    held_blocks: int = 0
    held_bytes: int = 0
    largest: int = 0
    by_mount: dict[str, int] = field(default_factory=dict)

    def add(self, mount_id: str, length: int, *, is_held: bool) -> None:
        """One more block."""
        charge = charge_of(length)
        self.blocks += 1
        self.bytes += charge
        self.largest = max(self.largest, charge)
        self.by_mount[mount_id] = self.by_mount.get(mount_id, 0) + charge
        if is_held:
            self.held_blocks += 1
            self.held_bytes += charge


@dataclass(frozen=True)
class TierRoom:
    """One tier directory."""

    kind: str
    capacity: int
    used: int
    limit: int


@dataclass(frozen=True)
class Room:
    """What a worker has, by its own word; ``answers`` is False for one that is away."""

    tiers: tuple[TierRoom, ...] = ()
    policy: str = "hold"
    quotas: Mapping[str, int] = field(default_factory=dict)
    answers: bool = True

    @property
    def limit(self) -> int:
        """Bytes that blocks may take for good."""
        return sum(tier.limit for tier in self.tiers)

    @property
    def used(self) -> int:
        """Bytes that they take now."""
        return sum(tier.used for tier in self.tiers)


def room_of(status: StatusReply) -> Room:
    """What ``/v1/status`` of a worker says about room. A policy other than ``hold`` keeps its tiers below the high
    watermark; what is reserved is not for blocks."""
    running = status.detail.get("running_settings")
    said = running if isinstance(running, dict) else {}
    policy = str(said.get("policy", "hold"))
    tiers = []
    for name, part in status.detail.items():
        if not (name.startswith("tier") and isinstance(part, dict) and part.get("in_service")):
            continue
        kind, capacity = str(part.get("tier", "?")), _number(part.get("capacity_bytes"))
        high = 1.0 if policy == "hold" else _own(said, kind, "high_watermark", 1.0)
        tiers.append(TierRoom(kind, int(capacity), int(_number(part.get("used_bytes"))), int(capacity * high)))
    quotas = {
        name.removeprefix("mounts.").removesuffix(".quota_bytes"): int(_number(value))
        for name, value in said.items()
        if name.startswith("mounts.") and name.endswith(".quota_bytes")
    }
    return Room(tuple(tiers), policy, quotas)


def _own(said: Mapping[str, object], kind: str, name: str, default: float) -> float:
    return _number(said.get(f"tiers.{kind}.{name}", said.get(name, default)))


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def share(member_id: str, need: Need, room: Room) -> LoadShare:
    """What speaks against what a worker is to hold."""
    unfit, reason = _judged(need, room)
    return LoadShare(
        member_id=member_id,
        blocks=need.blocks,
        bytes=need.bytes,
        held_blocks=need.held_blocks,
        held_bytes=need.held_bytes,
        capacity_bytes=sum(tier.capacity for tier in room.tiers),
        used_bytes=room.used,
        unfit_bytes=unfit,
        reason=reason,
    )


def _judged(need: Need, room: Room) -> tuple[int, str]:
    if not room.answers:
        return 0, "it does not answer now; its blocks are filled when it does, or when others own them"
    tiers = ", ".join(f"{tier.kind} {size_text(tier.limit)}" for tier in room.tiers) or "none in service"
    if need.largest > max((tier.capacity for tier in room.tiers), default=0):
        return need.bytes, f"a block of {size_text(need.largest)} fits into none of its tiers ({tiers})"
    for mount_id, wanted in need.by_mount.items():
        quota = room.quotas.get(mount_id)
        if quota is not None and wanted > quota:
            return (
                wanted - quota,
                f"{size_text(wanted - quota)} above the quota of the mount {mount_id} ({size_text(quota)})",
            )
    if need.bytes > room.limit:
        over = need.bytes - room.limit
        return over, f"{size_text(over)} more than its tiers keep under the policy {room.policy} ({tiers})"
    return 0, _pressed(need, room)


def _pressed(need: Need, room: Room) -> str:
    """What has to leave first."""
    others = max(0, room.used - need.held_bytes)
    short = need.bytes + others - room.limit
    if short <= 0:
        return ""
    leaves = "if nobody reads them (policy hold)" if room.policy == "hold" else f"by the policy {room.policy}"
    return f"{size_text(short)} of other datasets have to leave first, {leaves}"


def refusal(shares: tuple[LoadShare, ...]) -> str:
    """Why a load is not begun; empty: it fits."""
    unfit = [s for s in shares if s.unfit_bytes]
    if not unfit:
        return ""
    whole = size_text(sum(s.unfit_bytes for s in unfit))
    why = "; ".join(f"{s.member_id}: {s.reason}" for s in unfit[:5])
    more = f"; and {len(unfit) - 5} more workers" if len(unfit) > 5 else ""
    return f"{whole} will not fit: {why}{more}"
