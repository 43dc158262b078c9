"""The worker's Unix socket for clients of its host: the same reads by the same tickets, and nothing beyond them."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.contracts import DrainReply, DrainRequest
from forebay.contracts.blocks import DRAIN_PATH
from forebay.contracts.members import socket_name
from forebay.errors import ConfigError, PermissionDenied
from forebay.runtime import Deadline
from forebay.testing import run
from forebay.transport.unix import listening
from forebay_worker.app import Worker
from tests.contract.worker.kit import Cluster, File, cluster, ticket
from tests.unit.worker.kit import content


def peer(worker: Worker) -> str:
    return f"unix:{worker.socket}"


async def drain(of: Cluster, address: str) -> None:
    request = DrainRequest(draining=False)
    await of.client.call(address, DRAIN_PATH, request, DrainReply, deadline=Deadline.after(5))


def test_a_read_over_the_socket_needs_a_ticket_and_gives_the_same_bytes(tmp_path: Path) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            data = content(300_000)
            file = File.write(here.mount, "file", data)
            worker = await here.add("w1")
            assert (
                worker.member().uds == str(worker.socket) == str(tmp_path / "w1" / socket_name(worker.tiers[0].nonce))
            )
            buffer = memoryview(bytearray(len(data)))
            await here.client.read_into(
                peer(worker), file.path(), buffer, deadline=Deadline.after(10), headers={"forebay-ticket": ticket()}
            )
            assert bytes(buffer) == data
            refused = await here.client.fetch(peer(worker), "GET", file.path(), deadline=Deadline.after(5))
            assert refused.status == 401

    run(body())


def test_who_comes_by_the_socket_is_no_administrator(tmp_path: Path) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            worker = await here.add("w1", uds=tmp_path / "admin.sock")
            await drain(here, worker.server.address)
            await drain(here, f"unix:{tmp_path / 'admin.sock'}")
            with pytest.raises(PermissionDenied):
                await drain(here, peer(worker))

    run(body())


def test_a_socket_that_a_killed_worker_left_is_removed_and_never_quarantined(tmp_path: Path) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            left = "ab" * 16
            (tmp_path / "w1").mkdir()
            (tmp_path / "w1" / "nonce").write_text(left)
            listening(tmp_path / "w1" / socket_name(left), 0o600).close()
            worker = await here.add("w1")
            names = {path.name for path in (tmp_path / "w1").iterdir()}
            assert socket_name(left) not in names
            assert worker.socket.name in names
            quarantine = tmp_path / "w1" / "quarantine"
            assert not quarantine.exists() or not list(quarantine.iterdir())
        assert not worker.socket.exists()

    run(body())


def test_a_directory_named_for_the_socket_must_be_there(tmp_path: Path) -> None:
    async def body() -> None:
        async with cluster(tmp_path) as here:
            worker = await here.add("w1", uds_dir=tmp_path)
            assert worker.socket.parent == tmp_path
            assert worker.socket.is_socket()
            with pytest.raises(ConfigError, match="uds_dir"):
                await here.add("w2", uds_dir=tmp_path / "nowhere")

    run(body())
