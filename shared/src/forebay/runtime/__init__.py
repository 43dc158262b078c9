"""What every process needs besides its own work: deadlines, a task owner, settings, logs, limits of its cgroup."""

from forebay.runtime.config import (
    MemberSettings,
    ServiceSettings,
    Settings,
    Size,
    check_exposure,
    is_loopback,
    load,
    parse_size,
    read_admin_token,
    read_key_ring,
    read_tls,
)
from forebay.runtime.deadline import Deadline
from forebay.runtime.supervisor import Supervisor, run, stop_event

__all__ = [
    "Deadline",
    "MemberSettings",
    "ServiceSettings",
    "Settings",
    "Size",
    "Supervisor",
    "check_exposure",
    "is_loopback",
    "load",
    "parse_size",
    "read_admin_token",
    "read_key_ring",
    "read_tls",
    "run",
    "stop_event",
]
