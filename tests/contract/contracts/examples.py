"""One full example of every record. ``python -m tests.contract.contracts.examples`` writes their golden files.

A golden file that changes is a change of the wire: raise ``WIRE_VERSION``, or keep the old form readable.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from forebay.contracts import (
    Access,
    AccessesReply,
    AccessesRequest,
    AnnounceReply,
    AnnounceRequest,
    BatchItem,
    BatchReply,
    BatchRequest,
    BlockTarget,
    Change,
    ChangesReply,
    ClusterMap,
    ConsistencyRule,
    DirectoryPage,
    DrainReply,
    DrainRequest,
    Entry,
    ErrorReply,
    FillFailure,
    FillReply,
    FillRequest,
    FreeReply,
    FreeRequest,
    HintedBlock,
    HintReply,
    HintRequest,
    HoldsReply,
    HoldsRequest,
    Layout,
    ListReply,
    ListRequest,
    LoadPlan,
    LoadRequest,
    LoadShare,
    LoadsReply,
    LoadStatus,
    LookupReply,
    LookupRequest,
    Member,
    MissingBlock,
    Mount,
    MountRequest,
    MountsReply,
    RebalanceReply,
    RebalanceRequest,
    Record,
    SettingsReply,
    StatusReply,
    SyncReply,
    SyncRequest,
    TicketReply,
    TicketRequest,
    TierInfo,
    Touch,
    TouchReply,
    TouchRequest,
    TreeReply,
    TreeRequest,
    UfsOptions,
    WeightReply,
    WeightRequest,
    WithdrawReply,
    WithdrawRequest,
    encode,
)
from forebay.contracts.leaves import LEAF_VERSION, Leaf, Shared, encode_leaf
from forebay.contracts.overview import MountView, OverviewReply, ReadSample, TierView, Trouble, WorkerView
from forebay.contracts.tickets import TicketClaims
from forebay.contracts.traces import KeptSpan, TraceReply
from forebay.discovery.terms import Leader, TableHead

GOLDEN = Path(__file__).parent / "golden"

HEX = "0123456789abcdef0123456789abcdef"
OPTIONS = UfsOptions(
    profile="training", endpoint="http://127.0.0.1:9000", region="eu-1", path_style=True, ca_file="/ca", anonymous=True
)
FILL_FAILURE = FillFailure(position=0, code="not_found", message="no such object")
TIER = TierInfo(tier="MEM", capacity_bytes=1 << 30, nonce=HEX)
MEMBER = Member(
    member_id="worker-1",
    role="worker",
    tcp="127.0.0.1:7071",
    uds="/run/forebay/worker.sock",
    capacity_weight=2.5,
    serving_weight=0.5,
    state="draining",
    tiers=(TIER, TierInfo(tier="SSD", capacity_bytes=0, nonce=HEX)),
    available_bytes=1 << 29,
    version="0.1.0",
)
TIER_VIEW = TierView(tier="MEM", capacity_bytes=1 << 30, used_bytes=1 << 29, in_service=True)
WORKER_VIEW = WorkerView(
    member=MEMBER,
    age_s=0.5,
    serving_weight=0.25,
    reads_in_flight=3,
    tiers=(TIER_VIEW,),
    slow_because=("it is draining",),
)
MOUNT_VIEW = MountView(mount_id="m1", path="/data", source="s3://b/p", names=7, held_bytes=1 << 29, room_share=0.5)
SAMPLE = ReadSample(at_s=1.5, span_s=2.0, local=1, mem=2, ssd=3, peer=4, ufs=5)
TROUBLE = Trouble(at_s=1.5, member_id="worker-1", level="error", event="tier_error", reason="ENOSPC")
MOUNT = Mount(
    mount_id="m1",
    generation=3,
    path="/imagenet",
    ufs_uri="s3://bucket/prefix",
    ufs_id=HEX,
    options=OPTIONS,
    block_size=64 << 20,
    replicas=2,
    max_age_s=None,
    pin=True,
    ttl_s=86_400.0,
    quota_bytes=1 << 40,
)
LAYOUT = Layout(key="train/ä b.tfrecord", size=134_217_728, fingerprint='"etag-1"', version_id=HEX, block_size=64 << 20)
FILE = Entry(
    name="ä b.tfrecord", kind="file", inode=(1 << 63) - 1, mode=0o444, mtime_ns=-1, size=134_217_728, layout=LAYOUT
)
FOLDER = Entry(name="val", kind="dir", inode=2, mode=0o555, mtime_ns=1_700_000_000_123_456_789)

LOAD = LoadRequest(path="/imagenet", replicas=2, partial=True, verify=True, dry_run=False)
PLAN = LoadPlan(
    files=1,
    blocks=2,
    bytes=300,
    shares=(
        LoadShare(
            member_id="worker-1",
            blocks=2,
            bytes=300,
            held_blocks=1,
            held_bytes=100,
            capacity_bytes=200,
            used_bytes=100,
            unfit_bytes=100,
            reason="more than its tiers hold (MEM 200 B)",
        ),
    ),
)
KEPT_SPAN = KeptSpan(
    trace_id="0af7651916cd43dd8448eb211c80319c", span_id="b7ad6b7169203331", parent_id="00f067aa0ba902b7",
    service="forebay-worker", member_id="worker-1", name="ufs read", kind="client", started_s=1_700_000_000.25,
    took_s=0.125, attributes={"server.address": "s3", "http.response.status_code": 206}, error="ufs_unavailable",
)  # fmt: skip
MISSING = MissingBlock(path="/imagenet/a", index=1, member_id="worker-1", reason="not kept")
LOAD_STATUS = LoadStatus(
    load_id="load-1",
    request=LOAD,
    state="failed",
    created_s=1_700_000_000.25,
    changed_s=1_700_000_001.5,
    revision=7,
    attempts=1,
    round=2,
    plan=PLAN,
    done_blocks=1,
    done_bytes=100,
    filled_bytes=100,
    missing_blocks=1,
    missing=(MISSING,),
    message="1 block is missing",
)
PAGE = DirectoryPage(
    path="/imagenet", entries=(FILE, FOLDER), mount_id="m1", synced_at_s=1.5, valid_s=30.0, is_first=True, is_last=False
)
PACKED = DirectoryPage(
    path="/imagenet/train",
    entries=(),
    mount_id="m1",
    synced_at_s=1.5,
    valid_s=30.0,
    is_first=True,
    is_last=True,
    shared=Shared(
        mount_path="/imagenet", directory="train", ufs_id="0" * 32, full_prefix="data/train", block_size=1 << 28
    ),
    leaves=(encode_leaf(Leaf(LEAF_VERSION, ["a.jpg"], [0o444], [7], [1_700_000_000_000_000_000], ["etag"])),),
    accessed={"a.jpg": 1_700_000_100.5},
)

HINTED = HintedBlock(block_id=HEX, target=BlockTarget(mount_id="m1", key="a", size=1, fingerprint="f", index=0))
EXAMPLES: tuple[Record, ...] = (
    ConsistencyRule(prefix="train", max_age_s=None),
    TreeRequest(path="/imagenet", depth=3, start="train", page_token="YQ", limit=100, packed=True),
    PAGE,
    TreeReply(directories=(PAGE, PACKED), next_page_token="YQ"),
    Shared(mount_path="/m", directory="", ufs_id="0" * 32, full_prefix="data", block_size=1 << 28),
    BatchRequest(paths=("/imagenet/a", "/imagenet/b")),
    BatchItem(reply=LookupReply(entry=FILE, mount_id="m1", synced_at_s=1.5, valid_s=None)),
    BatchReply(items=(BatchItem(error=ErrorReply(code="not_found", message="no")),)),
    ErrorReply(
        code="not_found", message="no such path", details={"path": "/x", "n": 1, "f": 0.5, "b": True, "none": None},
        retryable=True, trace_id=HEX,
    ),
    TIER,
    MEMBER,
    ClusterMap(cluster_id="forebay", epoch=7, revision=19, members=(MEMBER,)),
    AnnounceRequest(member=MEMBER, session="s1", ttl_s=30.0, succeeds=(HEX,)),
    AnnounceReply(cluster_id="forebay", revision=20),
    WithdrawRequest(member_id="worker-1", session="s1", keep_place=True),
    WithdrawReply(was_there=True),
    OPTIONS,
    MOUNT,
    MountRequest(
        path="/imagenet", ufs_uri="s3://bucket/prefix", options=OPTIONS, block_size=64 << 20, replicas=2, max_age_s=0.0,
        pin=True, ttl_s=86_400.0, quota_bytes=1 << 40,
    ),
    MountsReply(cluster_id="forebay", revision=2, mounts=(MOUNT,)),
    TicketRequest(path="/imagenet/train", client_id="fuse-1"),
    TicketReply(ticket="v1.k1.cGF5bG9hZA.c2lnbmF0dXJl", mount=MOUNT, expires_at_s=1_700_003_600.5),
    LAYOUT,
    FILE,
    LookupRequest(path="/imagenet/train/ä b.tfrecord"),
    LookupReply(
        entry=FILE, mount_id="m1", synced_at_s=1_700_000_000.25, valid_s=30.0, accessed_s=1_700_000_100.5
    ),
    ListRequest(path="/imagenet", page_token="YQ", limit=100),
    ListReply(
        entries=(FILE, FOLDER), mount_id="m1", next_page_token="YQ", synced_at_s=1_700_000_000.25, valid_s=None,
        accessed={"a": 1_700_000_100.5},
    ),
    Access(path="/imagenet/a", accessed_s=1_700_000_100.5),
    AccessesRequest(accesses=(Access(path="/imagenet/a", accessed_s=1_700_000_100.5),)),
    AccessesReply(kept=1),
    BlockTarget(mount_id="m1", key="train/ä b.tfrecord", size=134_217_728, fingerprint='"etag-1"', index=1),
    Touch(block_id=HEX, opens=2, read_bytes=134_217_728),
    TouchRequest(touches=(Touch(block_id=HEX, opens=1, read_bytes=0),)),
    TouchReply(known=1, unknown=2),
    HINTED,
    HintRequest(
        stream="reader:7:0:m1", epoch=3, first=1000,
        blocks=(HINTED,),
    ),
    HintReply(blocks=1001, budget_bytes=536_870_912),
    FillRequest(targets=(BlockTarget(mount_id="m1", key="a/b", size=100_000, fingerprint="etag", index=0),)),
    FillReply(complete=0, failed=(FILL_FAILURE,)),
    FILL_FAILURE,
    FreeRequest(mount_id="m1", path="/imagenet/val", idle_s=3600.0, force=True),
    FreeReply(freed_blocks=2, freed_bytes=134_217_728, busy_blocks=1, pinned_blocks=0),
    SettingsReply(settings={"policy": "hold", "reserved_bytes": 0}, since_s={"policy": 1_700_000_000.5}),
    RebalanceRequest(bytes_per_s=100_000_000),
    RebalanceReply(running=True, waiting=3, moved=2, failed=1, unknown=4),
    DrainRequest(draining=True),
    DrainReply(state="draining"),
    Change(mount_id="m1", path="/imagenet/a", kind="changed", fingerprint='"etag-2"'),
    ChangesReply(
        cursor="0123456789abcdef-7", reset=False,
        changes=(Change(mount_id="m1", path="/imagenet/b", kind="removed"),),
    ),
    SyncRequest(path="/imagenet", recursive=True),
    SyncReply(directories=3, changes=2, synced_at_s=1_700_000_000.25),
    WeightRequest(capacity_weight=2.5),
    HoldsRequest(block_ids=(HEX,), verify=True),
    HoldsReply(complete=(HEX,), filling=(HEX[::-1],), corrupt=()),
    LOAD,
    PLAN,
    PLAN.shares[0],
    MISSING,
    LOAD_STATUS,
    LoadsReply(loads=(LOAD_STATUS,)),
    WeightReply(capacity_weight=2.5),
    StatusReply(
        service="forebay-worker", member_id="worker-1", version="0.1.0", wire_version=1,
        started_at_s=1_700_000_000.25, ready=False, waiting_for=("registry",),
        settings={"port": 7071, "uds": None}, detail={"blocks": 3, "tiers": {"MEM": 1 << 30}},
    ),
    TIER_VIEW, WORKER_VIEW, MOUNT_VIEW, SAMPLE, TROUBLE,
    OverviewReply(
        cluster_id="forebay", at_s=2.5, map_epoch=4, members=(MEMBER,), workers=(WORKER_VIEW,), mounts=(MOUNT_VIEW,),
        samples=(SAMPLE,), troubles=(TROUBLE,),
    ),
    KEPT_SPAN,
    TraceReply(spans=(KEPT_SPAN,)),
    Leader(member_id="master-1", tcp="10.0.0.1:7070", epoch=4, session="5f"),
    TableHead(revision=7, recent=((6, "m1"), (7, "m2"))),
    TicketClaims(
        cluster="forebay", mount_id="m1", generation=3, prefix="", client="fuse-1", rights="r", expires_at_s=1.5
    ),
)  # fmt: skip


def golden_path(record: Record) -> Path:
    """Where the golden file of a record's kind lies."""
    return GOLDEN / f"{type(record).__name__}.json"


def golden_form(record: Record) -> bytes:
    """What the wire carries, laid out for people."""
    return orjson.dumps(orjson.loads(encode(record)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    for example in EXAMPLES:
        golden_path(example).write_bytes(golden_form(example))
