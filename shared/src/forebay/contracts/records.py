"""Every request and reply of the cluster, one frozen record each (wire version 1)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from forebay.contracts.codec import WIRE_VERSION, Record

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Positive = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
Weight = Annotated[float, Meta(ge=0.0, le=1e15)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, Meta(ge=0.001, le=1e9)]
ShortText = Annotated[str, Meta(min_length=1, max_length=255)]
PathText = Annotated[str, Meta(min_length=1, max_length=4096)]
HexId = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]

ReadType = Literal["CACHE", "CACHE_PROMOTE", "NO_CACHE"]
TierName = Literal["MEM", "SSD"]
MemberState = Literal["joining", "live", "draining", "down"]
BLOCK_SIZE_DEFAULT = 256 << 20
EXTENT_SIZE = 4 << 20


class ErrorReply(Record, frozen=True):
    """Body of every error answer. ``details`` is flat data; ``retryable`` says that trying again may help."""

    code: str
    message: str
    details: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    retryable: bool = False
    trace_id: str | None = None


# -- members and the cluster map


class TierInfo(Record, frozen=True):
    """One tier directory of a worker. ``nonce`` is the content of its nonce file, new at every worker start."""

    tier: TierName
    capacity_bytes: Count
    nonce: HexId


class Member(Record, frozen=True):
    """A live service as others see it. ``tcp`` is ``host:port``; ``uds`` a socket path on its host.

    ``serving_weight`` and ``available_bytes`` (free in the tiers, rounded) move all the time; the registry publishes a
    change of these alone at most every 30 s.
    """

    member_id: ShortText
    role: Literal["master", "worker"]
    tcp: ShortText
    uds: str | None = None
    capacity_weight: Weight = 1.0
    serving_weight: Share = 1.0
    state: MemberState = "live"
    tiers: tuple[TierInfo, ...] = ()
    available_bytes: Count = 0
    version: str = ""
    wire_version: int = WIRE_VERSION


class ClusterMap(Record, frozen=True):
    """The set of members. ``epoch`` grows when ownership may change (who is in, capacity weights, drain);
    ``revision`` grows on every change, so that a long poll has something to wait for."""

    cluster_id: ShortText
    epoch: Count
    revision: Count
    members: tuple[Member, ...]


class AnnounceRequest(Record, frozen=True):
    """A member says that it is there; repeated at least every ``ttl_s / 3`` or it is taken for gone.

    ``session`` is the announcing process's own random name: it tells a renewal from a second member of the same id.
    ``succeeds`` are nonces of tier directories that this process holds now: a member that had them is dead.
    """

    member: Member
    session: Annotated[str, Meta(max_length=64)] = ""
    ttl_s: Annotated[float, Meta(gt=0, le=300)] = 10.0
    succeeds: Annotated[tuple[HexId, ...], Meta(max_length=256)] = ()


class AnnounceReply(Record, frozen=True):
    """The registry took the announcement."""

    cluster_id: ShortText
    revision: Count


class WithdrawRequest(Record, frozen=True):
    """A member leaves on purpose; it is out at once. Only the session that holds the id can withdraw it.

    With ``keep_place`` it is down at once and out later, as if it had vanished: a restart should move no ownership.
    """

    member_id: ShortText
    session: Annotated[str, Meta(max_length=64)] = ""
    keep_place: bool = False


class WithdrawReply(Record, frozen=True):
    """Whether the member was there."""

    was_there: bool


# -- mounts and tickets


class UfsOptions(Record, frozen=True):
    """How to reach an under store. ``profile`` names credentials in the *services'* configuration, never a secret."""

    profile: ShortText = "default"
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    ca_file: str | None = None
    anonymous: bool = False


class ConsistencyRule(Record, frozen=True):
    """The consistency class of what is below ``prefix`` (a key below the mount, by whole parts): ``max_age_s`` as
    a mount's."""

    prefix: PathText
    max_age_s: Annotated[float, Meta(ge=0)] | None


Rules = Annotated[tuple[ConsistencyRule, ...], Meta(max_length=100)]


class Mount(Record, frozen=True):
    """An under-store prefix bound in the namespace. ``path`` is absolute, without a trailing slash ("/" is the root).

    ``max_age_s`` is the consistency class: ``None`` is immutable, 0 is always, else seconds; of the ``rules`` whose
    prefix a name is at or below, the longest beats it. What workers keep of it:
    ``pin``: evict nothing; ``ttl_s``: a block not read for that long leaves; ``quota_bytes``: each worker keeps at most
    so much (``None``: no limit).
    """

    mount_id: ShortText
    generation: Positive
    path: PathText
    ufs_uri: PathText
    ufs_id: HexId
    options: UfsOptions = UfsOptions()
    read_only: bool = True
    block_size: Positive = BLOCK_SIZE_DEFAULT
    replicas: Annotated[int, Meta(ge=1, le=16)] = 1
    max_age_s: Annotated[float, Meta(ge=0)] | None = 60.0
    pin: bool = False
    ttl_s: Seconds | None = None
    quota_bytes: Count | None = None
    rules: Rules = ()


class MountRequest(Record, frozen=True):
    """Bind ``ufs_uri`` at ``path``. ``read_only: false`` is refused: nothing writes to under stores."""

    path: PathText
    ufs_uri: PathText
    options: UfsOptions = UfsOptions()
    read_only: bool = True
    block_size: Annotated[int, Meta(ge=4 << 20, le=1 << 34, multiple_of=4 << 20)] = BLOCK_SIZE_DEFAULT
    replicas: Annotated[int, Meta(ge=1, le=16)] = 1
    max_age_s: Annotated[float, Meta(ge=0)] | None = 60.0
    pin: bool = False
    ttl_s: Seconds | None = None
    quota_bytes: Count | None = None
    rules: Rules = ()


class MountsReply(Record, frozen=True):
    """The mount table; ``revision`` grows with each change (long poll: ``GET /v1/mounts?after=N&wait_s=S``)."""

    cluster_id: ShortText
    revision: Count
    mounts: tuple[Mount, ...]


class TicketRequest(Record, frozen=True):
    """Ask for the right to read below the mount that holds ``path``."""

    path: PathText
    client_id: ShortText


class TicketReply(Record, frozen=True):
    """A signed ticket, the mount it is for, and when it ends (seconds since the epoch, UTC)."""

    ticket: str
    mount: Mount
    expires_at_s: float


# -- names


class Layout(Record, frozen=True):
    """What a client needs to read one version of a file without the master. ``key`` is relative to the mount's root."""

    key: PathText
    size: Count
    fingerprint: ShortText
    version_id: HexId
    block_size: Positive


class Entry(Record, frozen=True):
    """A name with its attributes; ``layout`` is there for files. ``inode`` is ``identity.inode_number``."""

    name: Annotated[str, Meta(max_length=1024)]
    kind: Literal["file", "dir"]
    inode: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    mode: Annotated[int, Meta(ge=0, le=0o7777)]
    mtime_ns: int
    size: Count = 0
    layout: Layout | None = None


class LookupRequest(Record, frozen=True):
    """Attributes and layout of one absolute path."""

    path: PathText


class LookupReply(Record, frozen=True):
    """``valid_s``: how long the answer may be kept (``None``: for ever). ``synced_at_s``: when the UFS said so.
    ``accessed_s``: when the file was last opened, as far as readers with ``update_access_time`` told."""

    entry: Entry
    mount_id: str | None
    synced_at_s: float
    valid_s: float | None
    accessed_s: float | None = None


class ListRequest(Record, frozen=True):
    """A page of the directory ``path``, in byte order of names, after ``page_token``."""

    path: PathText
    page_token: Annotated[str, Meta(max_length=8192)] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000


class ListReply(Record, frozen=True):
    """A page of entries with attributes and layouts; ``next_page_token`` is ``None`` at the end. ``accessed``: when
    files among them were last opened, as far as that was told."""

    entries: tuple[Entry, ...]
    mount_id: str | None
    next_page_token: str | None
    synced_at_s: float
    valid_s: float | None
    accessed: dict[str, float] = field(default_factory=dict)


# -- blocks


class BlockTarget(Record, frozen=True):
    """Which block is meant. Travels as the query of ``GET /v1/blocks/{block_id}``; the worker derives the id itself."""

    mount_id: ShortText
    key: PathText
    size: Count
    fingerprint: ShortText
    index: Count


class FillRequest(Record, frozen=True):
    """Have these blocks of one mount here, all of each, behind what readers wait for. For many small ones: a request
    for each would cost more than its fill."""

    targets: Annotated[tuple[BlockTarget, ...], Meta(max_length=1024)]


class FillFailure(Record, frozen=True):
    """What became of one target: its position in the request, and the error."""

    position: Count
    code: ShortText
    message: str = ""


class FillReply(Record, frozen=True):
    """``complete`` of the blocks are here now."""

    complete: Count
    failed: tuple[FillFailure, ...] = ()


class Touch(Record, frozen=True):
    """Local reads of one block that its worker did not see."""

    block_id: HexId
    opens: Count
    read_bytes: Count


class TouchRequest(Record, frozen=True):
    """At most one a second per worker; ``touches`` is bounded by the body limit."""

    touches: Annotated[tuple[Touch, ...], Meta(max_length=20_000)]


class TouchReply(Record, frozen=True):
    """How many of the blocks this worker holds."""

    known: Count
    unknown: Count


class HintedBlock(Record, frozen=True):
    """A block that will be read."""

    block_id: HexId
    target: BlockTarget


class HintRequest(Record, frozen=True):
    """The order in which one reader will read blocks of this worker; ``first`` is the place of the first of these, so
    that a long order comes in parts. ``stream`` names the reader; another epoch of it replaces the last one, unless it
    is only the next: what will be read after the order that the worker knows already."""

    stream: ShortText
    epoch: Count
    blocks: Annotated[tuple[HintedBlock, ...], Meta(max_length=5_000)]
    first: Count = 0
    is_next: bool = False


class HintReply(Record, frozen=True):
    """How many blocks the worker knows of this reader's order, and how many bytes it fetches ahead of all readers."""

    blocks: Count
    budget_bytes: Count


class RebalanceRequest(Record, frozen=True):
    """A worker hands blocks that others own by now to their homes, and missing replicas to their owners, at most
    ``bytes_per_s`` of them; 0 stops it."""

    bytes_per_s: Count


class RebalanceReply(Record, frozen=True):
    """How far a rebalance is: ``waiting`` blocks are still to go, ``moved`` and ``failed`` went since it began;
    ``unknown`` ones cannot be named to others before they were read once (found at a restart)."""

    running: bool
    waiting: Count = 0
    moved: Count = 0
    failed: Count = 0
    unknown: Count = 0


class DrainRequest(Record, frozen=True):
    """A worker gives its share of the blocks away (and takes it back): it answers what it holds, and owns nothing."""

    draining: bool


class DrainReply(Record, frozen=True):
    """The worker's state as it is announced from now on."""

    state: MemberState


class WeightRequest(Record, frozen=True):
    """A worker announces another capacity weight, so another share of the blocks, until it ends; ``None``: its own."""

    capacity_weight: Weight | None


class WeightReply(Record, frozen=True):
    """The capacity weight that is announced from now on."""

    capacity_weight: Weight


class FreeRequest(Record, frozen=True):
    """Let go of blocks: those of mount ``mount_id``, those of files below ``path`` (absolute, in the namespace), those
    not read for ``idle_s``; what is given holds together; something must be given. Pinned ones by ``force`` only."""

    mount_id: ShortText | None = None
    path: PathText | None = None
    idle_s: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    force: bool = False


class FreeReply(Record, frozen=True):
    """What was let go of, and how many blocks were meant and stay because they are read just now, or pinned."""

    freed_blocks: Count
    freed_bytes: Count
    busy_blocks: Count
    pinned_blocks: Count


class SettingsReply(Record, frozen=True):
    """``GET /v1/settings``, and the answer to a ``PATCH``: what can be changed while the service runs, and since when
    (seconds since the epoch) each setting is as it is. Sizes are in bytes."""

    settings: dict[str, Any]
    since_s: dict[str, float]


class StatusReply(Record, frozen=True):
    """``GET /v1/status`` of any service; ``detail`` is the service's own part, ``now_s`` its clock."""

    service: ShortText
    member_id: ShortText
    version: str
    wire_version: int
    started_at_s: float
    ready: bool
    now_s: float = 0.0
    waiting_for: tuple[str, ...] = ()
    settings: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    detail: dict[str, str | int | float | bool | dict[str, str | int | float | bool | None] | None] = field(
        default_factory=dict
    )
