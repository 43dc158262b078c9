"""Limits from fixture trees of both cgroup versions, as hosts and containers show them."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.runtime import cgroup

GIB = 1 << 30
V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    """A file system with ``files``; 16 GiB of memory unless they say otherwise."""
    for name, text in ({"proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 1 kB\n"} | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v1_mount(controllers: str, shown: str = "/") -> str:
    return f"33 24 0:29 {shown} /sys/fs/cgroup/{controllers} rw,relatime - cgroup cgroup rw,{controllers}\n"


def test_without_control_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    root = tree(tmp_path, {})

    assert cgroup.memory_limit_bytes(root) == 16 * GIB
    assert cgroup.cpu_quota(root, cpus=8) == 8


def test_an_empty_tree_falls_back_to_what_the_kernel_says(tmp_path: Path) -> None:
    assert cgroup.memory_limit_bytes(tmp_path) > 0
    assert cgroup.cpu_quota(tmp_path) >= 1


def test_v2_in_a_container_with_its_own_namespace(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2,
            "sys/fs/cgroup/memory.max": f"{2 * GIB}\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
        },
    )

    assert cgroup.memory_limit_bytes(root) == 2 * GIB
    assert cgroup.cpu_quota(root, cpus=8) == 1.5


def test_v2_on_a_host_takes_the_smallest_limit_above_us(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/forebay.service\n",
            "proc/self/mountinfo": V2,
            "sys/fs/cgroup/system.slice/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/system.slice/forebay.service/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/cpu.max": "max 100000\n",
            "sys/fs/cgroup/system.slice/forebay.service/cpu.max": "300000 100000\n",
        },
    )

    assert cgroup.memory_limit_bytes(root) == GIB
    assert cgroup.cpu_quota(root, cpus=8) == 3


def test_v1_in_a_container_that_sees_host_paths(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/docker/abc\n",
            "proc/self/mountinfo": v1_mount("memory", "/docker/abc") + v1_mount("cpu,cpuacct", "/docker/abc"),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GIB}\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )

    assert cgroup.memory_limit_bytes(root) == 3 * GIB
    assert cgroup.cpu_quota(root, cpus=8) == 0.5


def test_v1_without_limits_is_the_machine(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/a/b\n3:cpu:/a/b\n",
            "proc/self/mountinfo": v1_mount("memory") + v1_mount("cpu"),
            "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000\n",
        },
    )

    assert cgroup.memory_limit_bytes(root) == 16 * GIB
    assert cgroup.cpu_quota(root, cpus=4) == 4


def test_v1_takes_a_parent_s_limit(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/a/b\n",
            "proc/self/mountinfo": v1_mount("memory"),
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": f"{4 * GIB}\n",
        },
    )

    assert cgroup.memory_limit_bytes(root) == GIB


def test_hybrid_uses_the_hierarchy_that_has_the_controller(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/x\n0::/y\n",
            "proc/self/mountinfo": v1_mount("memory") + "30 24 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/unified/y/cpu.max": "200000 100000\n",
        },
    )

    assert cgroup.memory_limit_bytes(root) == 2 * GIB
    assert cgroup.cpu_quota(root, cpus=8) == 2


def test_a_group_outside_what_the_mount_shows_uses_its_top(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../elsewhere\n",
            "proc/self/mountinfo": V2,
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
        },
    )

    assert cgroup.memory_limit_bytes(root) == GIB


def test_a_limit_above_the_machine_s_memory_is_the_machine_s(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2,
            "sys/fs/cgroup/memory.max": f"{64 * GIB}\n",
        },
    )

    assert cgroup.memory_limit_bytes(root) == 16 * GIB


@pytest.mark.parametrize("text", ["", "max 100000", "x y", "100000", "100000 0", "0 100000", "-1 100000", "1 2 3"])
def test_a_cpu_limit_that_is_none(text: str) -> None:
    assert cgroup.parse_cpu_max(text) is None


@pytest.mark.parametrize("text", ["", "max", "-1", "12x", "9223372036854771712"])
def test_a_memory_limit_that_is_none(text: str) -> None:
    assert cgroup.parse_bytes(text) is None


def test_odd_mount_lines_are_passed_over() -> None:
    text = "garbage\n\n1 2 3:4 / /sys/fs/cgroup rw\n1 2 3:4 / /x rw - cgroup2\n" + V2

    assert [m.mount_point for m in cgroup.parse_mounts(text)] == ["/sys/fs/cgroup"]


def test_this_machine_has_limits_above_zero() -> None:
    assert cgroup.memory_limit_bytes() > 1 << 20
    assert cgroup.cpu_quota() > 0
