"""What a master's page shows of the whole cluster (``GET /v1/overview``)."""

from __future__ import annotations

from forebay.contracts.codec import Record
from forebay.contracts.records import Count, Member, Share, ShortText, TierName

OVERVIEW_PATH = "/v1/overview"


class TierView(Record, frozen=True):
    """How full one tier directory is."""

    tier: TierName
    capacity_bytes: Count
    used_bytes: Count
    in_service: bool


class WorkerView(Record, frozen=True):
    """A worker as it last answered; ``age_s`` is how long ago (``None``: it never did). ``slow_because``: why it is
    shown as slow or ill; empty for one that is well."""

    member: Member
    age_s: float | None
    serving_weight: Share = 0.0
    reads_in_flight: Count = 0
    tiers: tuple[TierView, ...] = ()
    slow_because: tuple[str, ...] = ()


class MountView(Record, frozen=True):
    """A mount, what its listings hold, and what the workers hold of it: bytes (copies count), and the share of the
    cluster's room that they take."""

    mount_id: ShortText
    path: ShortText
    source: str
    names: Count
    held_bytes: Count
    room_share: Share


class ReadSample(Record, frozen=True):
    """Reads of all workers together in the ``span_s`` before ``at_s``, by where they found their bytes. ``local``:
    blocks that clients opened in place."""

    at_s: float
    span_s: float
    local: Count = 0
    mem: Count = 0
    ssd: Count = 0
    peer: Count = 0
    ufs: Count = 0


class Trouble(Record, frozen=True):
    """A warning or an error from a service's log."""

    at_s: float
    member_id: ShortText
    level: str
    event: str
    reason: str = ""


class OverviewReply(Record, frozen=True):
    """The cluster as the answering master sees it; ``samples`` are in order of time, ``troubles`` newest first."""

    cluster_id: ShortText
    at_s: float
    map_epoch: Count
    members: tuple[Member, ...]
    workers: tuple[WorkerView, ...]
    mounts: tuple[MountView, ...]
    samples: tuple[ReadSample, ...]
    troubles: tuple[Trouble, ...]
