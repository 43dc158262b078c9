"""The mount table as a running part: changes, settings, restarts, those who wait for news; tickets."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from forebay.contracts import MountRequest, TicketRequest, UfsOptions
from forebay.contracts.tickets import KeyRing, verify
from forebay.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, UfsDenied
from forebay.testing import run
from forebay_master.mount_store import SqliteMountStore
from forebay_master.mounts import Mounts
from forebay_master.observe import Meters
from forebay_master.ticketing import TicketOffice
from tests.unit.master.kit import Kit, kit, request

RING = KeyRing((("k1", b"0123456789abcdef"),))


def office(k: Kit) -> TicketOffice:
    return TicketOffice(
        lambda: k.mounts.table, k.sources, RING, Meters(k.metrics), cluster_id="test", ttl_s=100.0, clock=k.clock
    )


async def loaded_again(k: Kit) -> Mounts:
    again = Mounts(SqliteMountStore(k.database), k.sources, k.supervisor, "test")
    await again.load()
    return again


def test_a_mount_made_by_a_call_is_there_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            mount = await k.mount("/a/")
            assert (mount.path, mount.generation) == ("/a", 1)
            again = await loaded_again(k)
            assert again.reply() == k.mounts.reply()
            await again.settle([])
            assert again.table.mounts == (mount,)

    run(main())


def test_the_same_request_again_changes_nothing_and_another_for_the_path_is_a_conflict(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            mount = await k.mount("/a")
            revision = k.mounts.revision
            assert await k.mounts.mount(request("/a")) == (mount, False)
            assert k.mounts.revision == revision
            with pytest.raises(Conflict):
                await k.mounts.mount(request("/a", max_age_s=1.0))

    run(main())


def test_two_calls_for_one_path_at_once_make_one_mount(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            made = await asyncio.gather(k.mounts.mount(request("/a")), k.mounts.mount(request("/a")))
            assert sorted(is_new for _, is_new in made) == [False, True]
            assert k.mounts.revision == 1

    run(main())


@pytest.mark.parametrize(
    ("path", "uri", "error"),
    [
        ("a", "file:///memory", InvalidRequest),
        ("/../a", "file:///memory", InvalidRequest),
        ("/a", "local:///x", InvalidRequest),
        ("/a", "file:///memory/../etc", InvalidRequest),
        ("/a", "file:///etc", PermissionDenied),
        ("/a", "file:///", PermissionDenied),
        ("/a", "file:///memoryx", PermissionDenied),
        ("/a", "s3://bucket", PermissionDenied),
    ],
)
def test_what_may_not_be_mounted_is_refused(tmp_path: Path, path: str, uri: str, error: type[Exception]) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            with pytest.raises(error):
                await k.mounts.mount(MountRequest(path=path, ufs_uri=uri))
            assert (k.mounts.table.mounts, k.opened) == ((), [])

    run(main())


def test_an_endpoint_with_a_password_is_refused_without_showing_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            options = UfsOptions(endpoint="http://user:hunter2@host")
            with pytest.raises(InvalidRequest) as refused:
                await k.mounts.mount(MountRequest(path="/a", ufs_uri="s3://bucket", options=options))
            assert "hunter2" not in str(refused.value) + str(refused.value.details)

    run(main())


def test_a_source_that_may_not_be_listed_is_not_mounted(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.fail = lambda key, token: UfsDenied("no")
            with pytest.raises(UfsDenied):
                await k.mount("/a")
            assert k.mounts.table.mounts == ()
            assert k.ufs.is_closed

    run(main())


def test_a_removed_mount_is_gone_and_comes_back_as_a_new_generation(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("a", b"")
            first = await k.mount("/m")
            await k.names("/m")
            assert await k.mounts.unmount(first.mount_id) == first
            assert k.ufs.is_closed
            with pytest.raises(NotFound):
                await k.mounts.unmount(first.mount_id)
            with pytest.raises(NotFound):
                await k.names("/m")
            again = await k.mount("/m")
            assert (again.mount_id, again.generation) == (first.mount_id, 2)
            assert k.mounts.revision == 3
            assert await k.names("/m") == ["a"]

    run(main())


def test_work_that_was_queued_for_a_removed_mount_does_not_open_it_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            mount = await k.mount("/m")
            await k.mounts.unmount(mount.mount_id)
            opened = len(k.opened)
            with pytest.raises(NotFound):
                async with k.sources.use(mount):
                    pass
            assert (len(k.opened), len(k.sources)) == (opened, 0)

    run(main())


def test_the_settings_own_their_mounts(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            await k.mounts.settle([request("/a"), request("/b", "file:///other")])
            first = k.mounts.table.at("/a")
            assert first is not None
            with pytest.raises(Conflict):
                await k.mounts.unmount(first.mount_id)
            # the same settings: nothing changes
            again = await loaded_again(k)
            await again.settle([request("/a"), request("/b", "file:///other")])
            assert again.reply() == k.mounts.reply()
            # other settings: one changed, one gone, one new
            again = await loaded_again(k)
            await again.settle([request("/a", max_age_s=1.0), request("/c", "file:///other")])
            again.validate()
            assert sorted(mount.path for mount in again.table.mounts) == ["/a", "/c"]
            changed = again.table.at("/a")
            assert changed is not None
            assert (changed.mount_id, changed.generation, changed.max_age_s) == (first.mount_id, 2, 1.0)
            await k.mounts.load()

    run(main())


def test_settings_that_name_another_source_for_a_path_replace_what_was_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            k.ufs.put("old", b"")
            k.stores["file:///other"].put("new", b"")
            await k.mounts.settle([request("/a")])
            assert await k.names("/a") == ["old"]
            await k.mounts.settle([request("/a", "file:///other")])
            assert await k.names("/a") == ["new"]
            assert len(k.mounts.table.mounts) == 1

    run(main())


def test_settings_adopt_the_same_mount_and_do_not_replace_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            mount = await k.mount("/a")
            await k.mounts.settle([request("/a")])
            assert k.mounts.table.mounts == (mount,)
            with pytest.raises(Conflict):
                await k.mounts.unmount(mount.mount_id)
            await k.mount("/b", "file:///other")
            with pytest.raises(Conflict):
                await k.mounts.settle([request("/b")])

    run(main())


def test_who_waits_for_the_table_is_told_of_a_change_and_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            waiting = asyncio.ensure_future(k.mounts.changed(0, 30.0))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            await k.mount("/a")
            assert (await waiting).revision == 1
            assert (await k.mounts.changed(7, 30.0)).revision == 1
            assert (await k.mounts.changed(1, 0.01)).revision == 1
            waiting = asyncio.ensure_future(k.mounts.changed(1, 30.0))
            await asyncio.sleep(0)
            k.mounts.close()
            assert (await waiting).revision == 1

    run(main())


def test_a_ticket_says_what_workers_check(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            mount = await k.mount("/m")
            reply = await office(k).issue(TicketRequest(path="/m/any/thing", client_id="me"))
            claims = verify(RING, reply.ticket, cluster="test", now_s=k.clock.now_s)
            assert (claims.mount_id, claims.generation, claims.prefix, claims.client, claims.rights) == (
                mount.mount_id,
                mount.generation,
                "",
                "me",
                "r",
            )
            assert reply.expires_at_s == claims.expires_at_s == k.clock.now_s + 100
            assert reply.mount == mount
            assert k.counted("tickets", "issued") == 1

    run(main())


def test_there_is_no_ticket_where_nothing_is_mounted_or_allowed(tmp_path: Path) -> None:
    async def main() -> None:
        async with kit(tmp_path) as k:
            await k.mount("/m/n")
            for path, error in (("/", NotFound), ("/m", NotFound), ("m", InvalidRequest)):
                with pytest.raises(error):
                    await office(k).issue(TicketRequest(path=path, client_id="me"))
        # given a mount from a time when more was allowed
        async with kit(tmp_path, roots=["file:///other"]) as k:
            with pytest.raises(PermissionDenied):
                await office(k).issue(TicketRequest(path="/m/n", client_id="me"))
            with pytest.raises(PermissionDenied):
                await k.catalog.lookup("/m/n/x")
            with pytest.raises(PermissionDenied):
                await k.page("/m/n")

    run(main())
