"""Tier settings: how they are written, what they default to, what cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from forebay.errors import ConfigError
from forebay.ufs import AllowedRoots
from forebay_worker.directory import TierSpec
from forebay_worker.opening import plan_tiers
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


def settings(**given: Any) -> WorkerSettings:
    return WorkerSettings(**given)


def test_a_tier_is_kind_path_and_maybe_size() -> None:
    assert parse_tier("MEM:/dev/shm/x:4GiB") == TierText("MEM", Path("/dev/shm/x"), 4 * GIB)
    assert parse_tier("SSD:/data/cache") == TierText("SSD", Path("/data/cache"), None)
    assert parse_tier("SSD:/data/../cache/:1TB") == TierText("SSD", Path("/cache"), 10**12)


@pytest.mark.parametrize(
    "text",
    [
        *["", "MEM", "MEM:", "MEM:x", "TAPE:/x", "mem:/x", "MEM:/x:much", "SSD:/x:-1", "SSD:/x:9"],
        *["SSD:/x:1e30", "SSD:/x:0", "SSD:/x:-10GiB", "SSD:/x:10 GiB B", "SSD:/x:nan", "SSD:/x:" + "9" * 400],
    ],
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


def test_two_directories_that_are_one_behind_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for wrong in ("link", "link/inside"):
        texts = (f"SSD:{tmp_path}/a:1MiB", f"SSD:{tmp_path}/{wrong}:1MiB")
        with pytest.raises(ConfigError, match="overlap behind a link"):
            plan_tiers(settings(tier_dirs=texts))
    assert len(plan_tiers(settings(tier_dirs=(f"SSD:{tmp_path}/a:1MiB", f"SSD:{tmp_path}/b:1MiB")))) == 2


def test_what_a_running_worker_would_refuse_it_does_not_start_with(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than the 1048576 of a SSD directory") as caught:
        plan_tiers(settings(tier_dirs=(f"SSD:{tmp_path}/a:1MiB",), reserved_bytes=2 << 20))
    assert caught.value.setting == "reserved_bytes"


@pytest.mark.parametrize("text", ["-1", "1e30", "ten", "-10GiB", "9" * 400])
@pytest.mark.parametrize("name", ["reserved_bytes", "scrub_rate", "heap_reserve"])
def test_a_size_that_is_none_is_refused_with_its_name(name: str, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**{name: text})
    assert [error["loc"] for error in caught.value.errors()] == [(name,)]


def test_the_default_tier_is_named_so_that_it_is_found_again() -> None:
    assert default_tier(settings(port=7071)).path == Path("/dev/shm/forebay-forebay-7071")
    assert default_tier(settings(member_id="a/b", cluster_id="c")).path == Path("/dev/shm/forebay-c-a_b")
