"""What a master says of itself: ``/v1/status``, readiness, and the gauges behind ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import forebay_master
from forebay.contracts import WIRE_VERSION, ClusterMap, Mount, StatusReply
from forebay.errors import Detail
from forebay.telemetry import Metrics
from forebay_master.database import Database
from forebay_master.listings import ListingCounts
from forebay_master.mounts import Mounts
from forebay_master.sources import Sources
from forebay_master.stats import Stats
from forebay_master.syncs import Syncs

Details = dict[str, Detail | dict[str, Detail]]
NO_COUNTS = ListingCounts(0, 0)


@dataclass
class MasterStatus:
    """Reads the parts when asked. ``counts`` is refreshed from the store now and then; the rest is of now."""

    member_id: str
    started_at_s: float
    settings: Mapping[str, Detail]
    waiting_for: Callable[[], tuple[str, ...]]
    cluster_map: Callable[[], ClusterMap | None]
    database: Database
    sources: Sources
    mounts: Mounts
    syncs: Syncs
    stats: Stats
    leading: Callable[[], Mapping[str, Detail]] = dict
    counts: Mapping[str, ListingCounts] = field(default_factory=dict)

    def reply(self) -> StatusReply:
        """``GET /v1/status``."""
        waiting = self.waiting_for()
        return StatusReply(
            service="forebay-master",
            member_id=self.member_id,
            version=forebay_master.__version__,
            wire_version=WIRE_VERSION,
            started_at_s=self.started_at_s,
            ready=not waiting,
            waiting_for=waiting,
            settings=dict(self.settings),
            detail={
                **self.leading(),
                **self._work(),
                **self._map(),
                **{f"mount {m.path}": self._mount(m) for m in self.mounts.table.mounts},
            },
        )

    def observe(self, metrics: Metrics) -> None:
        """Adds the gauges."""
        for name, doc, read in (
            ("mounts", "Mounts in the table", lambda: len(self.mounts.table.mounts)),
            ("mounts_waiting", "Long polls for the mount table", lambda: self.mounts.waiting),
            ("listings", "Directories with a current listing", lambda: self._total().directories),
            ("inodes", "Names in current listings", lambda: self._total().names),
            ("syncs_in_flight", "Directories that are being listed or wait for it", lambda: len(self.syncs)),
            ("stats_in_flight", "Single names that are asked for or wait for it", lambda: len(self.stats)),
            ("stats_kept", "Answers about single names in memory", lambda: self.stats.kept),
            ("sources_open", "Under stores that are open", lambda: len(self.sources)),
            ("sqlite_reads", "Reads of the store that run or wait", lambda: self.database.reads),
            ("sqlite_writes", "Writes of the store that run or wait", lambda: self.database.writes),
        ):
            metrics.observed(f"forebay_master_{name}", doc, read)

    def _total(self) -> ListingCounts:
        return ListingCounts(
            sum(count.directories for count in self.counts.values()), sum(count.names for count in self.counts.values())
        )

    def _work(self) -> Details:
        return {
            "mounts": len(self.mounts.table.mounts),
            "mounts_revision": self.mounts.revision,
            "syncs_in_flight": len(self.syncs),
            "stats_in_flight": len(self.stats),
            "sqlite_reads": self.database.reads,
            "sqlite_writes": self.database.writes,
        }

    def _mounts(self) -> Details:
        return {f"mount {mount.path}": self._mount(mount) for mount in self.mounts.table.mounts}

    def _map(self) -> Details:
        known = self.cluster_map()
        if known is None:
            return {"map_epoch": None}
        members: Details = {
            f"member {m.member_id}": {
                "role": m.role,
                "state": m.state,
                "tcp": m.tcp,
                "capacity_weight": m.capacity_weight,
                "version": m.version,
            }
            for m in known.members
        }
        return {"map_epoch": known.epoch, "map_revision": known.revision, **members}

    def _mount(self, mount: Mount) -> dict[str, Detail]:
        counts = self.counts.get(mount.mount_id, NO_COUNTS)
        failures = self.syncs.failures(mount)
        last = failures[-1] if failures else None
        return {
            "mount_id": mount.mount_id,
            "generation": mount.generation,
            "source": mount.ufs_uri,
            "max_age_s": mount.max_age_s,
            "pin": mount.pin,
            "ttl_s": mount.ttl_s,
            "quota_bytes": mount.quota_bytes,
            "directories": counts.directories,
            "inodes": counts.names,
            "failed_directories": len(failures),
            "last_failure": f"{last.code}: {last.message}" if last else None,
            "last_failure_at_s": last.failed_at_s if last else None,
            "last_failure_directory": last.name.directory if last else None,
            "last_failure_retry_at_s": last.retry_at_s if last else None,
        }
