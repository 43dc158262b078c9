"""Settings that change while the worker runs: checked as a whole, then taken as a whole. Pure.

A ``PATCH`` is a JSON merge patch (RFC 7396): what it does not name stays, and ``null`` takes back what was said about a
mount or a tier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

from forebay.contracts.records import ReadType
from forebay.errors import InvalidRequest
from forebay.runtime import parse_size
from forebay_worker.policies import PolicyName
from forebay_worker.policies.ledger import MountRules
from forebay_worker.policies.rules import TierRules

MOUNTS_MAX = 4096
"""Mounts that may have rules of their own here."""

SECONDS_MAX = 1e9
KINDS = ("MEM", "SSD")


@dataclass(frozen=True)
class TierTuning:
    """What one kind of tier has of its own; ``None``: as all."""

    high_watermark: float | None = None
    low_watermark: float | None = None
    reserved_bytes: int | None = None


@dataclass(frozen=True)
class MountTuning:
    """What this worker does otherwise than the mount says; ``None``: as the mount says."""

    pin: bool | None = None
    ttl_s: float | None = None
    quota_bytes: int | None = None


@dataclass(frozen=True)
class Tuning:
    """All of it. ``idle_ttl_s``: silence after which ``hold`` takes a dataset for idle. ``scrub_rate``: bytes a second,
    0 is off."""

    passive_cache: bool = False
    read_type: ReadType = "CACHE"
    policy: PolicyName = "hold"
    idle_ttl_s: float = 600.0
    high_watermark: float = 0.95
    low_watermark: float = 0.90
    reserved_bytes: int = 0
    scrub_rate: int = 16 << 20
    tiers: Mapping[str, TierTuning] = field(default_factory=dict)
    mounts: Mapping[str, MountTuning] = field(default_factory=dict)

    def rules(self, kind: str) -> TierRules:
        """Of a tier of this kind (``MEM``, ``SSD``)."""
        own = self.tiers.get(kind, TierTuning())
        return TierRules(
            _first(own.high_watermark, self.high_watermark),
            _first(own.low_watermark, self.low_watermark),
            _first(own.reserved_bytes, self.reserved_bytes),
        )

    def mount_rules(self, mount_id: str, said: MountRules) -> MountRules:
        """Of a mount whose own record says ``said``."""
        own = self.mounts.get(mount_id, MountTuning())
        return MountRules(
            _first(own.pin, said.is_pinned),
            said.ttl_s if own.ttl_s is None else own.ttl_s,
            said.quota_bytes if own.quota_bytes is None else own.quota_bytes,
        )

    def shown(self) -> dict[str, Any]:
        """As JSON; nothing that was not said about a tier or mount."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"tiers", "mounts"}}
        return plain | {"tiers": _said(self.tiers), "mounts": _said(self.mounts)}


def _first(own: Any, general: Any) -> Any:
    return general if own is None else own


def _said(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {f.name: value for f in fields(part) if (value := getattr(part, f.name)) is not None}
        for name, part in parts.items()
    }


def patched(tuning: Tuning, body: object, capacities: Mapping[str, int]) -> Tuning:
    """``tuning`` with a change, or nothing of it. ``capacities``: bytes of the smallest directory of each kind.

    Raises:
        InvalidRequest: names the ``field`` and the ``reason``.
    """
    if not isinstance(body, dict):
        raise refused("", "want a JSON object")
    changes: dict[str, Any] = {}
    for name, value in body.items():
        if name == "tiers":
            changes[name] = _parts(name, value, tuning.tiers, _TIER, TierTuning, lambda kind: kind in capacities)
        elif name == "mounts":
            changes[name] = _parts(name, value, tuning.mounts, _MOUNT, MountTuning, lambda mount: 0 < len(mount) < 256)
        elif name in _PLAIN:
            changes[name] = _PLAIN[name](name, value)
        else:
            raise refused(name, f"no such setting; there are {', '.join([*_PLAIN, 'tiers', 'mounts'])}")
    new = replace(tuning, **changes)
    check_whole(new, capacities)
    return new


def _parts(
    where: str, value: object, old: Mapping[str, Any], readers: dict[str, Reader], kind: Any, may: Callable[[str], bool]
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise refused(where, "want a JSON object")
    new = dict(old)
    for name, said in value.items():
        place = f"{where}.{name}"
        if not may(name):
            raise refused(place, "this worker has none such")
        if said is None:
            new.pop(name, None)
            continue
        if not isinstance(said, dict):
            raise refused(place, "want a JSON object")
        changes = {}
        for part, content in said.items():
            if part not in readers:
                raise refused(f"{place}.{part}", f"no such setting; there are {', '.join(readers)}")
            changes[part] = None if content is None else readers[part](f"{place}.{part}", content)
        new[name] = replace(new.get(name, kind()), **changes)
    if len(new) > MOUNTS_MAX:
        raise refused(where, f"more than {MOUNTS_MAX} of them")
    return new


def check_whole(tuning: Tuning, capacities: Mapping[str, int]) -> None:
    """Passes if the parts of a tuning go together and fit these tiers. Raises as ``patched``."""
    for kind, capacity in capacities.items():
        own, rules = tuning.tiers.get(kind, TierTuning()), tuning.rules(kind)
        if rules.low > rules.high:
            name = "low_watermark" if own == TierTuning() else f"tiers.{kind}.low_watermark"
            raise refused(name, f"{rules.low} is above the high watermark {rules.high}")
        if rules.reserved_bytes > capacity:
            name = "reserved_bytes" if own.reserved_bytes is None else f"tiers.{kind}.reserved_bytes"
            raise refused(name, f"{rules.reserved_bytes} bytes are more than the {capacity} of a {kind} directory")


def refused(name: str, reason: str) -> InvalidRequest:
    """What cannot be taken, and why."""
    return InvalidRequest(f"{name}: {reason}" if name else reason, field=name, reason=reason)


Reader = Callable[[str, object], Any]


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise refused(name, "want true or false")
    return value


def _one_of(*values: str) -> Reader:
    def read(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in values:
            raise refused(name, f"want one of {', '.join(values)}")
        return value

    return read


def _number(low: float, high: float) -> Reader:
    def read(name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise refused(name, "want a number")
        if not low < value <= high:
            raise refused(name, f"want more than {low:g} and at most {high:g}")
        return float(value)

    return read


def _size(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise refused(name, "want a whole number of bytes, or a text such as 10GiB")
    try:
        size = parse_size(value)
    except (ValueError, OverflowError) as e:
        raise refused(name, "want a whole number of bytes, or a text such as 10GiB") from e
    if not 0 <= size < 1 << 63:
        raise refused(name, "want 0 to 2**63 - 1 bytes")
    return size


_SHARE = _number(0.0, 1.0)
_SECONDS = _number(0.0, SECONDS_MAX)
_TIER: dict[str, Reader] = {"high_watermark": _SHARE, "low_watermark": _SHARE, "reserved_bytes": _size}
_MOUNT: dict[str, Reader] = {"pin": _flag, "ttl_s": _SECONDS, "quota_bytes": _size}
_PLAIN: dict[str, Reader] = {
    "passive_cache": _flag,
    "read_type": _one_of(*get_args(ReadType)),
    "policy": _one_of(*get_args(PolicyName)),
    "idle_ttl_s": _SECONDS,
    "scrub_rate": _size,
    **_TIER,
}
