"""``/readyz`` of a gateway says whether its mount answers, and answers itself while the mount hangs."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.cli.children import get
from forebay.testing import run
from forebay.testing.cluster import Cluster
from forebay_fuse import mounting
from forebay_fuse.app import Service
from forebay_fuse.liveness import Liveness
from forebay_fuse.settings import FuseSettings

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
PATIENCE_S = 30.0
"""More than any answer takes, on a busy machine; a mount that hangs would take for ever."""


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Path]:
    """A mount whose device nobody reads."""
    session = mounting.mount(mounting.prepare(tmp_path), allow_other=False)
    yield tmp_path
    assert mounting.abandon(session)


def test_a_mount_that_hangs_is_told_within_the_deadline(hanging: Path) -> None:
    async def main() -> None:
        began_s = time.monotonic()
        liveness = Liveness(0.5)
        assert (
            await asyncio.gather(*[liveness.ask(hanging) for _ in range(5)])
            == [f"{hanging}: no answer within 0.5 s"] * 5
        )
        assert time.monotonic() - began_s < PATIENCE_S

    run(main())


def test_a_folder_where_nothing_is_mounted_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        assert "nothing is mounted" in await Liveness(PATIENCE_S).ask(tmp_path)

    run(main())


def test_readiness_follows_the_mount(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("content")
    (tmp_path / "mount").mkdir()

    async def main(registry: str) -> None:
        given = {"mountpoint": tmp_path / "mount", "registry": registry, "port": 0}
        service = Service(FuseSettings.model_validate(given))
        await service.start()
        device = service.device
        assert device is not None
        try:
            # given a mount that answers
            assert await asyncio.to_thread(readyz, service) == (200, b"ready\n")
            assert await asyncio.to_thread(cat, tmp_path / "mount" / "file") == b"content"
            # when its device is no longer read, then it is not ready, in spite of the hanging mount
            device.pause()
            service.liveness = Liveness(1.0)
            status, said = await asyncio.to_thread(readyz, service)
            assert status == 503
            assert b"no answer within 1.0 s" in said
            # and ready again when it is read again
            device.resume()
            service.liveness = Liveness(PATIENCE_S)
            assert await asyncio.to_thread(readyz, service) == (200, b"ready\n")
        finally:
            device.resume()
            await service.close()

    with Cluster.of_folder(tmp_path / "source") as cluster:
        run(main(cluster.registry))
    assert not mounting.device_at(tmp_path / "mount")


def readyz(service: Service) -> tuple[int, bytes]:
    """Asks, from another thread."""
    reply = get(int(service.server.address.rpartition(":")[2]), "/readyz", timeout_s=PATIENCE_S)
    assert reply is not None
    return reply


def cat(path: Path) -> bytes:
    """By another process: this one serves the mount."""
    return subprocess.run(["cat", path], capture_output=True, check=True, timeout=PATIENCE_S).stdout
