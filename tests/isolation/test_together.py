"""The three services, each in an environment of its own, serve a file together."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebay.cli.children import ChildSpec, get
from forebay.cli.cluster import ClusterSpec, Places, child_specs
from forebay.testing.tools import Process, free_ports

from .conftest import Installed, clean_environment

READY_TIMEOUT_S = 30.0

pytestmark = [pytest.mark.slow, pytest.mark.fuse]


@pytest.fixture
def mount_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "mount"
    folder.mkdir()
    return folder


@pytest.fixture
def children(tmp_path: Path, mount_dir: Path) -> list[ChildSpec]:
    """What to start: master, worker, gateway, on a folder with one file."""
    for name in ("data", "run", "tiers"):
        (tmp_path / name).mkdir()
    places = Places(tmp_path / "run", tmp_path / "tiers", tuple(free_ports(3)))
    places.key_file.write_text(f"k1 {secrets.token_hex(32)}\n")
    spec = ClusterSpec(
        mounts=(f"/=file://{tmp_path}/data",),
        ufs_roots=(f"file://{tmp_path}/data",),
        worker_mem_bytes=64 << 20,
        mount_dirs=(mount_dir,),
    )
    return child_specs(spec, places)


@contextlib.contextmanager
def started(child: ChildSpec, environment: Installed, folder: Path) -> Iterator[Process]:
    """The service from its own environment, ready inside, stopped outside."""
    folder.mkdir()
    command = child.module.replace("_", "-")
    process = Process([environment.bin / command, *child.args], folder=folder, env=clean_environment())
    try:
        process.wait_ready(lambda: _is_ready(child.port), READY_TIMEOUT_S)
        yield process
    finally:
        process.stop()


def _is_ready(port: int) -> bool:
    reply = get(port, "/readyz", timeout_s=1.0)
    return reply is not None and reply[0] == 200


def test_three_services_of_three_environments_serve_a_file(
    install: Callable[[str], Installed], children: list[ChildSpec], tmp_path: Path, mount_dir: Path
) -> None:
    content = secrets.token_bytes(1 << 20)
    (tmp_path / "data" / "a file.bin").write_bytes(content)

    with contextlib.ExitStack() as stack:
        for child in children:
            environment = install(child.module.replace("_", "-"))
            stack.enter_context(started(child, environment, tmp_path / f"log-{child.name}"))
        names = os.listdir(mount_dir)
        read = (mount_dir / "a file.bin").read_bytes()

    assert names == ["a file.bin"]
    assert read == content
    assert not os.path.ismount(mount_dir)
