"""Settings that change while the worker runs: all of a change, or nothing and the reason."""

from __future__ import annotations

from typing import Any

import pytest

from forebay.errors import InvalidRequest
from forebay_worker.policies.ledger import MountRules
from forebay_worker.policies.rules import TierRules
from forebay_worker.tuning import MountTuning, Tuning, patched

CAPACITIES = {"MEM": 1 << 30, "SSD": 100 << 30}


def test_what_is_not_named_stays() -> None:
    before = Tuning(read_type="NO_CACHE", reserved_bytes=5)
    after = patched(before, {"policy": "lru", "passive_cache": True}, CAPACITIES)
    assert after == Tuning(read_type="NO_CACHE", reserved_bytes=5, policy="lru", passive_cache=True)
    assert patched(before, {}, CAPACITIES) == before


def test_sizes_are_numbers_or_texts() -> None:
    assert patched(Tuning(), {"scrub_rate": "1MiB"}, CAPACITIES).scrub_rate == 1 << 20
    after = patched(Tuning(), {"reserved_bytes": "512MiB", "mounts": {"m": {"quota_bytes": 4096}}}, CAPACITIES)
    assert (after.reserved_bytes, after.mounts["m"].quota_bytes) == (512 << 20, 4096)


def test_a_kind_of_tier_may_differ_from_the_others() -> None:
    after = patched(Tuning(), {"tiers": {"SSD": {"reserved_bytes": "10GiB", "low_watermark": 0.5}}}, CAPACITIES)
    assert after.rules("MEM") == TierRules(0.95, 0.90, 0)
    assert after.rules("SSD") == TierRules(0.95, 0.5, 10 << 30)
    assert patched(after, {"tiers": {"SSD": None}}, CAPACITIES).rules("SSD") == TierRules()
    assert patched(after, {"tiers": {"SSD": {"low_watermark": None}}}, CAPACITIES).rules("SSD").low == 0.90


def test_a_mount_has_rules_here_that_beat_its_own_record() -> None:
    after = patched(Tuning(), {"mounts": {"m": {"pin": False, "quota_bytes": 1}}}, CAPACITIES)
    said = MountRules(is_pinned=True, ttl_s=7.0, quota_bytes=9)
    assert after.mount_rules("m", said) == MountRules(False, 7.0, 1)
    assert after.mount_rules("n", said) == said
    assert patched(after, {"mounts": {"m": None}}, CAPACITIES).mounts == {}
    assert patched(after, {"mounts": {"m": {"pin": None}}}, CAPACITIES).mounts == {"m": MountTuning(quota_bytes=1)}


def test_what_is_shown_reads_back_as_it_is() -> None:
    after = patched(Tuning(), {"mounts": {"m": {"ttl_s": 5}}, "tiers": {"MEM": {"high_watermark": 1}}}, CAPACITIES)
    shown = after.shown()
    assert shown["mounts"] == {"m": {"ttl_s": 5.0}}
    assert patched(Tuning(), shown, CAPACITIES) == after


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], ""),
        (None, ""),
        ({"surprise": 1}, "surprise"),
        ({"policy": "mru"}, "policy"),
        ({"policy": None}, "policy"),
        ({"passive_cache": 1}, "passive_cache"),
        ({"read_type": "cache"}, "read_type"),
        ({"reserved_bytes": -1}, "reserved_bytes"),
        ({"reserved_bytes": "-1"}, "reserved_bytes"),
        ({"reserved_bytes": "10 bananas"}, "reserved_bytes"),
        ({"reserved_bytes": "1e30"}, "reserved_bytes"),
        ({"reserved_bytes": 1e30}, "reserved_bytes"),
        ({"reserved_bytes": 1.5}, "reserved_bytes"),
        ({"reserved_bytes": True}, "reserved_bytes"),
        ({"reserved_bytes": "10GiB"}, "reserved_bytes"),
        ({"reserved_bytes": 10**40}, "reserved_bytes"),
        ({"reserved_bytes": "9" * 400 + "GiB"}, "reserved_bytes"),
        ({"scrub_rate": -1}, "scrub_rate"),
        ({"scrub_rate": "1e30"}, "scrub_rate"),
        ({"scrub_rate": None}, "scrub_rate"),
        ({"high_watermark": 0}, "high_watermark"),
        ({"high_watermark": 1.01}, "high_watermark"),
        ({"high_watermark": float("nan")}, "high_watermark"),
        ({"high_watermark": "0.9"}, "high_watermark"),
        ({"high_watermark": 0.5}, "low_watermark"),
        ({"idle_ttl_s": 0}, "idle_ttl_s"),
        ({"idle_ttl_s": 1e30}, "idle_ttl_s"),
        ({"tiers": 5}, "tiers"),
        ({"tiers": {"NVME": {}}}, "tiers.NVME"),
        ({"tiers": {"MEM": 5}}, "tiers.MEM"),
        ({"tiers": {"MEM": {"capacity": 5}}}, "tiers.MEM.capacity"),
        ({"tiers": {"MEM": {"reserved_bytes": "2GiB"}}}, "tiers.MEM.reserved_bytes"),
        ({"tiers": {"MEM": {"low_watermark": 0.99}}}, "tiers.MEM.low_watermark"),
        ({"mounts": {"": {}}}, "mounts."),
        ({"mounts": {"m": {"quota_bytes": -1}}}, "mounts.m.quota_bytes"),
        ({"mounts": {"m": {"quota": 1}}}, "mounts.m.quota"),
        ({"mounts": {"m": {"ttl_s": -1}}}, "mounts.m.ttl_s"),
        ({"mounts": {str(number): {} for number in range(5000)}}, "mounts"),
        ({"policy": "lru", "high_watermark": 2}, "high_watermark"),
    ],
)
def test_a_change_that_cannot_be_taken_names_its_field_and_the_reason(body: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        patched(Tuning(), body, CAPACITIES)
    assert caught.value.details["field"] == field
    assert caught.value.details["reason"]
    assert field in caught.value.message
