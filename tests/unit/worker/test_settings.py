"""Tier settings: how they are written, what they default to, what cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forebay.errors import ConfigError
from forebay.ufs import AllowedRoots
from forebay_worker.directory import TierSpec
from forebay_worker.settings import (
    Space,
    TierText,
    WorkerSettings,
    check_outside_sources,
    default_tier,
    parse_tier,
    resolve_tiers,
)

GIB = 1 << 30


def test_a_tier_is_kind_path_and_maybe_size() -> None:
    assert parse_tier("MEM:/dev/shm/x:4GiB") == TierText("MEM", Path("/dev/shm/x"), 4 * GIB)
    assert parse_tier("SSD:/data/cache") == TierText("SSD", Path("/data/cache"), None)
    assert parse_tier("SSD:/data/../cache/:1TB") == TierText("SSD", Path("/cache"), 10**12)


@pytest.mark.parametrize(
    "text", ["", "MEM", "MEM:", "MEM:x", "TAPE:/x", "mem:/x", "MEM:/x:much", "SSD:/x:-1", "SSD:/x:9"]
)
def test_a_tier_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="'"):
        parse_tier(text)


def test_defaults_are_a_quarter_of_memory_and_a_fifth_of_the_free_disk() -> None:
    texts = [parse_tier("MEM:/m"), parse_tier("SSD:/s")]
    specs = resolve_tiers(texts, [Space(9 * GIB, 9 * GIB), Space(90 * GIB, 50 * GIB)], memory=8 * GIB, reserve=GIB)
    assert [spec.capacity_bytes for spec in specs] == [2 * GIB, 10 * GIB]


def test_a_default_fits_into_a_small_shm() -> None:
    (spec,) = resolve_tiers([parse_tier("MEM:/m")], [Space(64 << 20, 64 << 20)], memory=8 * GIB, reserve=GIB)
    assert spec.capacity_bytes <= 0.8 * (64 << 20)
    assert spec.capacity_bytes % 4096 == 0


@pytest.mark.parametrize(
    "texts",
    [
        ["MEM:/m:8GiB"],
        ["MEM:/m:4GiB", "MEM:/n:4GiB"],
        ["SSD:/s:200GiB"],
        ["SSD:/s:1GiB", "SSD:/s:1GiB"],
        ["SSD:/s:1GiB", "MEM:/s/inside:1GiB"],
    ],
)
def test_what_cannot_fit_is_a_configuration_error(texts: list[str]) -> None:
    spaces = [Space(100 * GIB, 50 * GIB)] * len(texts)
    with pytest.raises(ConfigError) as caught:
        resolve_tiers([parse_tier(text) for text in texts], spaces, memory=8 * GIB, reserve=GIB)
    assert caught.value.setting == "tier_dirs"


def test_a_tier_inside_a_source_or_around_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    roots = AllowedRoots.parse([f"file://{tmp_path}/data", "s3://bucket/x"])
    for wrong in ("data", "data/tier", "link/tier", "."):
        with pytest.raises(ConfigError):
            check_outside_sources([TierSpec("SSD", tmp_path / wrong, GIB)], roots)
    check_outside_sources([TierSpec("SSD", tmp_path / "data2", GIB)], roots)


def test_the_default_tier_is_named_so_that_it_is_found_again() -> None:
    by_port: dict[str, Any] = {"port": 7071}
    by_name: dict[str, Any] = {"member_id": "a/b", "cluster_id": "c"}
    assert default_tier(WorkerSettings(**by_port)).path == Path("/dev/shm/forebay-forebay-7071")
    assert default_tier(WorkerSettings(**by_name)).path == Path("/dev/shm/forebay-c-a_b")
