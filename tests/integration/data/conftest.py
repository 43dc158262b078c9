"""A control group for tests of what memory is taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.runtime.cgroup import parse_groups, parse_mounts
from tests.integration.data.kit import LIMIT


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with so much memory, below our own."""
    name = f"forebay-test-{os.getpid()}"
    groups = parse_groups(Path("/proc/self/cgroup").read_text())
    for mount in parse_mounts(Path("/proc/self/mountinfo").read_text()):
        own = groups.get("memory" if mount.version == 1 else "", "/")
        folder = Path(mount.mount_point) / os.path.relpath(own, mount.root) / name
        limit = folder / ("memory.limit_in_bytes" if mount.version == 1 else "memory.max")
        if mount.version == 1 and "memory" not in mount.controllers:
            continue
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            limit.write_text(str(LIMIT))
        except OSError:  # without the controller
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group can be made here")  # it takes root and a writable hierarchy that counts memory
