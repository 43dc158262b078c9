"""What a client may be told, with the bounds that its memory and its waiting obey."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from forebay.balancing import LocationPolicy
from forebay.contracts.records import EXTENT_SIZE, ReadType
from forebay.errors import ConfigError

ShortCircuit = Literal["file", "uds", "off"]


@dataclass(frozen=True)
class ClientOptions:
    """Options of one client.

    ``registry`` is ``http(s)://host:port[,host:port]`` (masters) or ``zookeeper://h:p[,h:p]/chroot``.
    ``metadata_cache`` keeps names: at most ``metadata_cache_entries``, each for ``metadata_cache_s`` (what is not there
    for ``negative_cache_s``) and never longer than the master allows; without it every lookup asks a master. A listing
    that is given from memory begins that time anew for its names, once.
    ``readahead_bytes`` is the
    window of one sequential reader, ``readahead_budget_bytes`` what all readers of the client hold together (by
    default an eighth of the memory that the control group grants, at most 256 MiB).
    ``worker_list_refresh_s``: how old the cluster map may get when no watch says anything.
    ``reserved_bytes`` is what ``local-first-avoid-eviction`` leaves free on this host's worker; ``hedge`` allows a
    second request when the first is late. ``short_circuit_dirs`` are directories of workers on this host (paths from
    registrations are never used): with ``file`` the tier directories, whose block files are opened in place, past the
    tickets; with ``uds`` those of their Unix sockets (by default the first tier directory), for the same requests as
    over the network; with ``off`` they are not looked at. ``update_access_time``: masters are told, in batches, which
    files are opened (each costs a write there), and tell it in lookups and listings.
    """

    registry: str
    client_id: str
    cluster_id: str = "forebay"
    metadata_cache: bool = True
    metadata_cache_entries: int = 100_000
    metadata_cache_s: float = 60.0
    negative_cache_s: float = 1.0
    readahead_bytes: int = 16 << 20
    readahead_budget_bytes: int | None = None
    segment_bytes: int = EXTENT_SIZE
    short_circuit: ShortCircuit = "file"
    short_circuit_dirs: tuple[Path, ...] = ()
    local_blocks_max: int = 512
    worker_list_refresh_s: float = 30.0
    location_policy: LocationPolicy = "deterministic-hash"
    reserved_bytes: int = 0
    hedge: bool = True
    read_type: ReadType = "CACHE"
    read_deadline_s: float = 30.0
    step_deadline_s: float = 10.0
    metadata_deadline_s: float = 10.0
    start_deadline_s: float = 15.0
    connect_timeout_s: float = 2.0
    data_connections: int = 1
    touch_interval_s: float = 1.0
    update_access_time: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def validate(self) -> None:
        """Raises ConfigError for a value that cannot work."""
        positive = {
            "metadata_cache_entries": self.metadata_cache_entries,
            "segment_bytes": self.segment_bytes,
            "read_deadline_s": self.read_deadline_s,
            "step_deadline_s": self.step_deadline_s,
            "metadata_deadline_s": self.metadata_deadline_s,
            "start_deadline_s": self.start_deadline_s,
            "touch_interval_s": self.touch_interval_s,
            "data_connections": self.data_connections,
            "worker_list_refresh_s": self.worker_list_refresh_s,
        }
        for name, value in positive.items():
            if value <= 0:
                raise ConfigError(name, f"must be more than 0, is {value}")
        not_negative = {
            "readahead_bytes": self.readahead_bytes,
            "metadata_cache_s": self.metadata_cache_s,
            "negative_cache_s": self.negative_cache_s,
            "reserved_bytes": self.reserved_bytes,
        }
        for name, value in not_negative.items():
            if value < 0:
                raise ConfigError(name, f"must not be negative, is {value}")
        if self.location_policy not in get_args(LocationPolicy):
            raise ConfigError("location_policy", f"one of {', '.join(get_args(LocationPolicy))}")
        if self.short_circuit not in get_args(ShortCircuit):
            raise ConfigError("short_circuit", f"one of {', '.join(get_args(ShortCircuit))}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert", "a certificate and its key (tls_key) come together")
