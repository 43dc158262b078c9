"""Tier directories: lock, nonce, names, what is found at start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forebay.errors import ConfigError
from forebay_worker.directory import TierDirectory, TierSpec
from forebay_worker.recovery import prepare
from forebay_worker.tiers import open_tier, undo

A = "aa" + "0" * 30
SETTING = "tier_dirs"
MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
23 22 0:21 / /dev/shm rw,nosuid shared:7 master:1 - tmpfs tmpfs rw,size=64k
"""


def opened(path: Path) -> TierDirectory:
    tier = open_tier(TierSpec("SSD", path, 1 << 20), setting=SETTING)
    prepare(tier, "boot-1")
    return tier


def test_a_block_is_a_part_until_it_is_sealed(tmp_path: Path) -> None:
    tier = opened(tmp_path / "t")
    fd, sidecar = tier.create_part(A, 10)
    assert sidecar is None
    assert (tmp_path / f"t/aa/{A}.part").stat().st_size == 10
    os.pwrite(fd, b"0123456789", 0)
    tier.seal(A, fd, 10, (1,))
    os.close(fd)
    assert (tmp_path / f"t/aa/{A}.blk").read_bytes() == b"0123456789"
    assert not (tmp_path / f"t/aa/{A}.part").exists()
    fd, length = tier.open_block(A)
    os.close(fd)
    assert length == 10
    tier.remove(A, sealed=True)
    tier.remove(A, sealed=True)
    assert not (tmp_path / f"t/aa/{A}.blk").exists()
    tier.close()


def test_the_nonce_is_new_at_each_start_and_the_directory_can_be_taken_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    assert (tmp_path / "nonce").read_text() == first.nonce
    first.close()
    second = opened(tmp_path)
    assert (tmp_path / "nonce").read_text() == second.nonce
    assert second.nonce != first.nonce
    second.close()


def test_a_directory_that_another_worker_holds_is_a_configuration_error(tmp_path: Path) -> None:
    first = opened(tmp_path)
    with pytest.raises(ConfigError, match="another running worker") as caught:
        opened(tmp_path)
    assert caught.value.setting == SETTING
    assert (tmp_path / "nonce").read_text() == first.nonce
    first.close()


def test_a_file_in_place_of_the_directory_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("x")
    with pytest.raises(ConfigError, match="no directory"):
        opened(tmp_path / "t")


def test_a_directory_is_made_but_not_those_above_it(tmp_path: Path) -> None:
    opened(tmp_path / "made").close()
    with pytest.raises(ConfigError, match="mnt/nvme does not exist; mount its disk or make it") as caught:
        opened(tmp_path / "mnt/nvme/cache")
    assert caught.value.setting == SETTING
    assert not (tmp_path / "mnt").exists()


def test_a_directory_given_twice_is_told(tmp_path: Path) -> None:
    first = opened(tmp_path / "t")
    (tmp_path / "same").symlink_to(tmp_path / "t")
    with pytest.raises(ConfigError, match="given twice"):
        opened(tmp_path / "same")
    first.close()


def test_a_symlink_under_a_block_name_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    tier = opened(tmp_path / "t")
    (tmp_path / "t/aa").mkdir()
    (tmp_path / f"t/aa/{A}.blk").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic"):
        tier.open_block(A)
    tier.close()


def test_a_start_that_failed_leaves_no_directory_but_one_with_blocks_stays(tmp_path: Path) -> None:
    undo(opened(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    undo(opened(tmp_path / "old"))
    assert (tmp_path / "old").exists()
    tier = opened(tmp_path / "used")
    os.close(tier.create_part(A, 1)[0])
    undo(tier)
    assert (tmp_path / f"used/aa/{A}.part").exists()


@pytest.mark.parametrize(("device", "in_memory"), [((0, 21), True), ((254, 0), False), ((9, 9), False)])
def test_only_tmpfs_counts_as_memory(tmp_path: Path, device: tuple[int, int], in_memory: bool) -> None:
    from forebay_worker.tiers import _is_tmpfs

    assert _is_tmpfs(os.makedev(*device), MOUNTS) is in_memory
