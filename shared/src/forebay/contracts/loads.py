"""Records of loads: the durable job of a master that fills the cache, and what it asks workers."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from forebay.contracts.codec import Record
from forebay.contracts.records import Count, HexId, PathText, ShortText

LOADS_PATH = "/v1/loads"
HOLDS_PATH = "/v1/blocks:holds"
HOLDS_MAX = 4096
"""Blocks that one question names."""

MISSING_MAX = 1000
"""Blocks that a load lists by name; further ones are counted."""

LoadState = Literal["queued", "planning", "filling", "auditing", "planned", "succeeded", "failed", "cancelled"]


class HoldsRequest(Record, frozen=True):
    """Which of these blocks a worker holds complete, by the files in its tier directories. With ``verify`` all their
    bytes are compared with their checksums first; what is wrong is dropped."""

    block_ids: Annotated[tuple[HexId, ...], Meta(max_length=HOLDS_MAX)]
    verify: bool = False


class HoldsReply(Record, frozen=True):
    """Those that are complete, and those that are on their way; the rest is not here. ``corrupt`` were dropped."""

    complete: tuple[HexId, ...]
    filling: tuple[HexId, ...] = ()
    corrupt: tuple[HexId, ...] = ()


class LoadRequest(Record, frozen=True):
    """Fill the cache with all files at or below ``path``.

    ``replicas``: copies of each block (``None``: as the mounts say). ``partial``: begin although not all of it fits.
    ``verify``: the audit compares every byte with its checksum. ``dry_run``: say what would be done.
    """

    path: PathText
    replicas: Annotated[int, Meta(ge=1, le=16)] | None = None
    partial: bool = False
    verify: bool = False
    dry_run: bool = False


class LoadShare(Record, frozen=True):
    """What one worker is to hold of a load, and what speaks against it: ``unfit_bytes`` have no room there whatever
    leaves; ``reason`` says why, or what has to leave first."""

    member_id: ShortText
    blocks: Count
    bytes: Count
    held_blocks: Count
    held_bytes: Count
    capacity_bytes: Count
    used_bytes: Count
    unfit_bytes: Count = 0
    reason: str = ""


class LoadPlan(Record, frozen=True):
    """What a load is about to do. ``blocks`` and ``bytes`` count each copy."""

    files: Count
    blocks: Count
    bytes: Count
    shares: tuple[LoadShare, ...]

    @property
    def held_bytes(self) -> int:
        """Bytes that are cached already."""
        return sum(share.held_bytes for share in self.shares)

    @property
    def unfit_bytes(self) -> int:
        """Bytes that have no room."""
        return sum(share.unfit_bytes for share in self.shares)


class MissingBlock(Record, frozen=True):
    """A block that a worker should hold and does not, and why."""

    path: PathText
    index: Count
    member_id: str
    reason: str


class LoadStatus(Record, frozen=True):
    """A load. ``revision`` grows with each change (``GET /v1/loads/{load_id}?after=N&wait_s=S`` waits for one).

    ``done_blocks`` and ``done_bytes`` are what was found or filled in this round, of the plan's. ``missing_blocks`` is
    the last audit's count; ``missing`` names the first of them. ``attempts``: starts of the job, one more after each
    death of its master.
    """

    load_id: ShortText
    request: LoadRequest
    state: LoadState
    created_s: float
    changed_s: float
    revision: Count = 0
    attempts: Count = 0
    round: Count = 0
    plan: LoadPlan | None = None
    done_blocks: Count = 0
    done_bytes: Count = 0
    filled_bytes: Count = 0
    missing_blocks: Count = 0
    missing: Annotated[tuple[MissingBlock, ...], Meta(max_length=MISSING_MAX)] = ()
    message: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing happens any more."""
        return self.state in ("planned", "succeeded", "failed", "cancelled")


class LoadsReply(Record, frozen=True):
    """All loads that the master remembers, the newest first."""

    loads: tuple[LoadStatus, ...]
