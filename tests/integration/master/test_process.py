"""The master as a process: signals, sudden death, bad settings, ZooKeeper."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from forebay.contracts import (
    ClusterMap,
    ListReply,
    ListRequest,
    LookupReply,
    LookupRequest,
    Member,
    MountRequest,
    MountsReply,
    Record,
)
from forebay.contracts.records import Mount
from forebay.contracts.tickets import parse_key_file
from forebay.discovery import open_registry
from forebay.errors import PeerUnavailable
from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.zookeeper import ZooKeeperServer
from forebay.transport import HttpClient
from tests.integration.master.kit import process, ready

pytestmark = pytest.mark.slow


@asynccontextmanager
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient(quiet())
    try:
        yield made
    finally:
        await made.close()


async def ask(c: HttpClient, address: str, path: str, request: Record | None, kind: Any) -> Any:
    method = "GET" if request is None else "POST"
    return await c.call(address, path, request, kind, deadline=Deadline.after(20), method=method)


def flags(tmp_path: Path) -> list[str]:
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    return ["--state-dir", str(tmp_path / "state"), "--ufs-roots", f"file://{data}", "--mount", f"/m=file://{data}"]


def test_it_serves_and_ends_at_sigterm_with_code_zero(tmp_path: Path) -> None:
    async def main() -> None:
        async with client() as c, process(*flags(tmp_path)) as master:
            (tmp_path / "data" / "a").write_bytes(b"x")
            await ready(master)
            reply = await ask(c, master.address, "/v1/lookup", LookupRequest(path="/m/a"), LookupReply)
            assert reply.entry.size == 1
            master.child.terminate()
            assert await master.ended(seconds=10) == 0

    run(main(), watchdog_s=60)


def test_killed_it_comes_back_with_its_mounts_its_epoch_and_whole_listings(tmp_path: Path) -> None:
    async def main() -> None:
        names = [f"{number:05}" for number in range(3000)]
        given = flags(tmp_path)
        for name in names:
            (tmp_path / "data" / name).touch()
        sources = [f"own-{number}" for number in range(3)]
        for source in sources:
            (tmp_path / "data" / source).mkdir()
        last_epoch = last_revision = 0
        async with client() as c:
            for round_number in range(3):
                async with process(*given) as master:
                    await ready(master)
                    ring = parse_key_file((tmp_path / "state" / "cluster.key").read_text(), setting="key")
                    registry = open_registry(
                        f"http://{master.address}", cluster_id="forebay", telemetry=quiet(), client=c, keys=ring
                    )
                    await registry.start(Deadline.after(10))
                    worker = Member(member_id=f"w{round_number}", role="worker", tcp="127.0.0.1:1", capacity_weight=1.0)
                    await registry.announce(worker)
                    source = f"file://{tmp_path}/data/{sources[round_number]}"
                    request = MountRequest(path=f"/call-{round_number}", ufs_uri=source)
                    await ask(c, master.address, "/v1/mounts", request, Mount)
                    table = await ask(c, master.address, "/v1/mounts", None, MountsReply)
                    assert len(table.mounts) == round_number + 2
                    seen = await ask(c, master.address, "/v1/cluster", None, ClusterMap)
                    assert seen.epoch > last_epoch
                    assert seen.revision > last_revision
                    last_epoch, last_revision = seen.epoch, seen.revision
                    # when it is killed while a listing is brought in
                    listing = asyncio.ensure_future(
                        ask(c, master.address, "/v1/list", ListRequest(path="/m"), ListReply)
                    )
                    await asyncio.sleep(0.02 * round_number)
                    master.child.kill()
                    await master.ended()
                    with suppress(PeerUnavailable):
                        assert [entry.name for entry in (await listing).entries] == names + sources
                    await registry.close()
            async with process(*given) as master:
                await ready(master)
                page = await ask(c, master.address, "/v1/list", ListRequest(path="/m"), ListReply)
                assert [entry.name for entry in page.entries] == names + sources

    run(main(), watchdog_s=90)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mount", "/x=file:///nowhere-at-all"], "error: mount: "),
        (["--mount", "/x"], "error: mount: "),
        (["--mounts", "/x=file:///y"], "did you mean --mount?"),
        (["--host", "0.0.0.0"], "error: cluster_key_file: "),
        (["--ufs-roots", "file:///nowhere-at-all", "--mount", "/x=file:///nowhere-at-all"], "does not exist"),
        (["--state-dir", "/dev/null/x"], "error: state_dir: "),
        (["--registry", "zookeeper://127.0.0.1:1"], "error: cluster_key_file: "),
    ],
)
def test_a_bad_setting_is_one_line_and_code_two(tmp_path: Path, more: list[str], message: str) -> None:
    async def main() -> None:
        async with process(*flags(tmp_path), *more) as master:
            assert await master.ended() == 2
        errors = [line for line in master.lines if line.startswith("error: ")]
        assert len(errors) == 1, master.lines
        assert message in errors[0]
        assert "Traceback" not in "".join(master.lines)

    run(main(), watchdog_s=60)


def test_the_second_master_on_one_state_directory_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with process(*flags(tmp_path)) as first:
            await ready(first)
            async with process(*flags(tmp_path)) as second:
                assert await second.ended() == 2
                assert any("in use by another master" in line for line in second.lines)

    run(main(), watchdog_s=60)


@pytest.mark.zookeeper
def test_with_zookeeper_two_masters_are_in_one_map_and_give_equal_answers(
    tmp_path: Path, zookeeper: ZooKeeperServer
) -> None:
    async def main() -> None:
        registry = f"zookeeper://{zookeeper.address}/{tmp_path.name}"
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "a").write_bytes(b"x")
        data = f"file://{tmp_path}/data"
        key_file = tmp_path / "key"
        key_file.write_text(f"k1 {'00' * 16}\n")
        common = ["--registry", registry, "--ufs-roots", data, "--mount", f"/m={data}"]
        common += ["--cluster-key-file", str(key_file)]
        async with (
            client() as c,
            process(*common, "--state-dir", f"{tmp_path}/s1", "--member-id", "m1") as first,
            process(*common, "--state-dir", f"{tmp_path}/s2", "--member-id", "m2") as second,
        ):
            await ready(first)
            await ready(second)
            watch = open_registry(registry, cluster_id="forebay", telemetry=quiet(), client=c)
            await watch.start(Deadline.after(20))
            async with asyncio.timeout(20):
                seen = watch.current()
                while seen is None or {m.member_id for m in seen.members} != {"m1", "m2"}:
                    seen = await watch.changed(seen.revision if seen else 0, 5.0) or seen
            assert {m.tcp for m in seen.members} == {first.address, second.address}
            entries = []
            for master in (first, second):
                found = await ask(c, master.address, "/v1/lookup", LookupRequest(path="/m/a"), LookupReply)
                entries.append((found.entry, found.mount_id))
            assert entries[0] == entries[1]
            await watch.close()
            for master in (first, second):
                master.child.terminate()
                assert await master.ended(seconds=15) == 0

    run(main(), watchdog_s=90)


def test_a_zookeeper_that_is_not_there_is_said_and_ends_it_after_the_deadline(tmp_path: Path) -> None:
    async def main() -> None:
        more = ["--registry", "zookeeper://127.0.0.1:1", "--registry-timeout-s", "2", "--insecure"]
        async with process(*flags(tmp_path), *more) as master:
            assert await master.ended() == 1
            assert any("127.0.0.1:1" in line for line in master.lines)

    run(main(), watchdog_s=60)
