"""What is wrong with a request, or with a setting, is said with a code, and leaves nothing behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import orjson
import pytest

from forebay.errors import ConfigError
from forebay.testing import run
from tests.contract.master.kit import service, settings

LOOKUP, LIST, TICKETS, MOUNTS = "/v1/lookup", "/v1/list", "/v1/tickets", "/v1/mounts"
TREE, BATCH, SYNC, ACCESSED = "/v1/tree", "/v1/files:batch", "/v1/sync", "/v1/files:accessed"
OK_MOUNT: dict[str, Any] = {"path": "/new", "ufs_uri": "file:///etc"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "d").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / "d" / name).write_bytes(b"x")
    return folder


BAD_BODIES: list[tuple[str, bytes | dict[str, Any], int, str]] = [
    (LOOKUP, b"", 400, "invalid_request"),
    (LOOKUP, b"no json", 400, "invalid_request"),
    (LOOKUP, b"[]", 400, "invalid_request"),
    (LOOKUP, b"null", 400, "invalid_request"),
    (LOOKUP, b'{"path": "/\xff"}', 400, "invalid_request"),
    (LOOKUP, b'{"path": "/\\ud800"}', 400, "invalid_request"),
    (LOOKUP, b"[" * 100_000, 400, "invalid_request"),
    (LOOKUP, {"path": 1}, 400, "invalid_request"),
    (LOOKUP, {"path": ""}, 400, "invalid_request"),
    (LOOKUP, {"path": "/", "more": 1}, 400, "invalid_request"),
    (LOOKUP, {}, 400, "invalid_request"),
    (LOOKUP, {"path": "relative"}, 400, "invalid_request"),
    (LOOKUP, {"path": "/m/../etc/passwd"}, 400, "invalid_request"),
    (LOOKUP, {"path": "/m/d\0"}, 400, "invalid_request"),
    (LOOKUP, {"path": "/m//d"}, 400, "invalid_request"),
    (LOOKUP, {"path": "/" + "n" * 256}, 400, "invalid_request"),
    (LOOKUP, {"path": "/" + "n/" * 2050}, 400, "invalid_request"),
    (LOOKUP, {"path": "/nowhere"}, 404, "not_found"),
    (LOOKUP, b'{"path": "/' + b"x" * (1 << 20) + b'"}', 413, "too_large"),
    (LIST, {"path": "/m", "limit": 10_001}, 400, "invalid_request"),
    (LIST, {"path": "/m", "limit": 0}, 400, "invalid_request"),
    (LIST, {"path": "/m", "limit": -1}, 400, "invalid_request"),
    (LIST, {"path": "/m", "limit": "10"}, 400, "invalid_request"),
    (LIST, {"path": "/m", "limit": 1.5}, 400, "invalid_request"),
    (LIST, {"path": "/m", "page_token": "garbage"}, 400, "invalid_request"),
    (LIST, {"path": "/m", "page_token": ""}, 400, "invalid_request"),
    (LIST, {"path": "/m", "page_token": "A" * 9000}, 400, "invalid_request"),
    (LIST, {"path": "/m/d/a"}, 404, "not_found"),
    (TREE, {"path": "/m/.."}, 400, "invalid_request"),
    (TREE, {"path": "/m\0"}, 400, "invalid_request"),
    (TREE, {"path": "/" + "n" * 5000}, 400, "invalid_request"),
    (TREE, b'{"path": "/m/\xff"}', 400, "invalid_request"),
    (TREE, {"path": "/m", "depth": -1}, 400, "invalid_request"),
    (TREE, {"path": "/m", "page_token": "garbage"}, 400, "invalid_request"),
    (TREE, {"path": "/none"}, 404, "not_found"),
    (TREE, {"path": "/m/none"}, 404, "not_found"),
    (BATCH, {"paths": ["/m"] * 10_001}, 413, "too_large"),
    (BATCH, {"paths": ["/m"] * 1001}, 413, "too_large"),
    (BATCH, {"paths": "/m"}, 400, "invalid_request"),
    (BATCH, {"paths": ["x" * 5000]}, 400, "invalid_request"),
    (BATCH, b'["/m"]', 400, "invalid_request"),
    (ACCESSED, {"accesses": [{"path": "/m/d/../a", "accessed_s": 1.0}]}, 400, "invalid_request"),
    (ACCESSED, {"accesses": [{"path": "/" + "x" * 5000, "accessed_s": 1.0}]}, 400, "invalid_request"),
    (ACCESSED, {"accesses": [{"path": "/m/d/a", "accessed_s": -1.0}]}, 400, "invalid_request"),
    (ACCESSED, {"accesses": [{"path": "/m/d/a", "accessed_s": 1.0}] * 1001}, 400, "invalid_request"),
    (ACCESSED, b"[]", 400, "invalid_request"),
    (SYNC, {"path": "/m/../x"}, 400, "invalid_request"),
    (SYNC, {"path": "/" + "x" * 5000}, 400, "invalid_request"),
    (SYNC, {"path": "/unknown"}, 404, "not_found"),
    (SYNC, b'"/m"', 400, "invalid_request"),
    (LOOKUP, {"path": "/" + "x" * 5000}, 400, "invalid_request"),
    (LIST, {"path": "/m/d/.."}, 400, "invalid_request"),
    (LIST, {"path": "/" + "x" * 5000}, 400, "invalid_request"),
    (LIST, b'{"path": "/\xff\xfe"}', 400, "invalid_request"),
    (LIST, {"path": "/unknown"}, 404, "not_found"),
    (TICKETS, {"path": "/", "client_id": "c"}, 404, "not_found"),
    (TICKETS, {"path": "/m", "client_id": ""}, 400, "invalid_request"),
    (TICKETS, {"path": "/m", "client_id": "c" * 256}, 400, "invalid_request"),
    (TICKETS, {"path": "/m/..", "client_id": "c"}, 400, "invalid_request"),
    (MOUNTS, {"path": "/new"}, 400, "invalid_request"),
    (MOUNTS, OK_MOUNT, 403, "permission_denied"),
    (MOUNTS, OK_MOUNT | {"path": "new"}, 400, "invalid_request"),
    (MOUNTS, OK_MOUNT | {"block_size": 1}, 400, "invalid_request"),
    (MOUNTS, OK_MOUNT | {"block_size": (4 << 20) + 1}, 400, "invalid_request"),
    (MOUNTS, OK_MOUNT | {"max_age_s": -1}, 400, "invalid_request"),
    (MOUNTS, OK_MOUNT | {"replicas": 0}, 400, "invalid_request"),
    (MOUNTS, OK_MOUNT | {"ufs_uri": "http://x"}, 403, "permission_denied"),
    (MOUNTS, OK_MOUNT | {"ufs_uri": "local:///etc"}, 400, "invalid_request"),
    (MOUNTS, OK_MOUNT | {"ufs_uri": "s3://bucket", "options": {"secret": "x"}}, 400, "invalid_request"),
]


BAD_CALLS: list[tuple[str, str, bytes | dict[str, Any], int, str]] = [
    ("GET", "/v1/dirs/m/d/..%2F..%2Fx", b"", 400, "invalid_request"),
    ("GET", "/v1/dirs/m%00", b"", 400, "invalid_request"),
    ("GET", "/v1/dirs/m?limit=10001", b"", 400, "invalid_request"),
    ("GET", "/v1/dirs/m?limit=many", b"", 400, "invalid_request"),
    ("GET", "/v1/dirs/m?surprise=1", b"", 400, "invalid_request"),
    ("GET", "/v1/dirs/m?depth=1&page_token=garbage", b"", 400, "invalid_request"),
    ("GET", "/v1/dirs/" + "x" * 5000, b"", 400, "invalid_request"),
    ("GET", "/v1/dirs/unknown", b"", 404, "not_found"),
    ("GET", "/v1/mounts/m-unknown/manifest", b"", 404, "not_found"),
    ("DELETE", "/v1/mounts/m-unknown", b"", 404, "not_found"),
    ("PATCH", "/v1/mounts/m-unknown", b"{}", 404, "not_found"),
    ("PATCH", "/v1/mounts/m-unknown", b"[]", 404, "not_found"),
    ("PATCH", "/v1/mounts/m-unknown", b"no json", 400, "invalid_request"),
]


def test_a_bad_call_is_refused_with_its_code_and_leaves_nothing(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path, [f"/m=file://{data}"])) as s:
            before = await s.mounts()
            for method, path, body, status, code in BAD_CALLS:
                assert await s.refused(method, path, body) == (status, code), (method, path, body)
            assert await s.mounts() == before
            assert len(await s.entries("/m")) == 1

    run(main())


def test_a_page_token_of_another_directory_or_tree_is_refused(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path, [f"/m=file://{data}"])) as s:
            token = (await s.page("/m/d", limit=1)).next_page_token
            tree = orjson.loads((await s.send("POST", TREE, {"path": "/m", "limit": 2})).body)["next_page_token"]
            for path, body in (
                (LIST, {"path": "/m", "page_token": token}),
                (LIST, {"path": "/m/d", "page_token": tree}),
                (TREE, {"path": "/m/d", "page_token": tree}),
                (TREE, {"path": "/m", "page_token": token}),
                (TREE, {"path": "/m", "depth": 1, "page_token": tree}),
            ):
                assert await s.refused("POST", path, body) == (400, "invalid_request"), body

    run(main())


def test_a_bad_request_is_refused_with_its_code_and_leaves_nothing(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path, [f"/m=file://{data}"])) as s:
            revision = (await s.mounts()).revision
            for path, body, status, code in BAD_BODIES:
                assert await s.refused("POST", path, body) == (status, code), (path, body)
            assert (await s.mounts()).revision == revision
            assert [entry.name for entry in await s.entries("/m/d")] == ["a", "b", "c"]

    run(main())


def test_bad_routes_and_queries_are_refused(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path, [f"/m=file://{data}"])) as s:
            assert await s.refused("GET", LOOKUP) == (405, "invalid_request")
            assert await s.refused("POST", "/v1/nothing") == (404, "not_found")
            assert await s.refused("DELETE", "/v1/mounts/unknown") == (404, "not_found")
            for query in ("?after=x", "?after=-1", "?after=1&wait_s=nan", "?after=1&wait_s=-1", "?wait_s=x"):
                assert await s.refused("GET", MOUNTS + query) == (400, "invalid_request"), query

    run(main())


def test_a_page_token_of_another_directory_is_refused(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        mounts = [f"/m=file://{data}", f"/n=file://{data}"]
        async with service(settings(tmp_path, mounts)) as s:
            token = (await s.page("/m/d", limit=1)).next_page_token
            assert token is not None
            for path in ("/m", "/n/d", "/"):
                body = {"path": path, "page_token": token}
                assert await s.refused("POST", LIST, body) == (400, "invalid_request")
            assert [entry.name for entry in (await s.page("/m/d", token)).entries] == ["b", "c"]

    run(main())


def test_changing_mounts_needs_the_admin_token_where_there_is_one(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        token_file = tmp_path / "admin.token"
        token_file.write_text("0123456789abcdefghij\n")
        async with service(settings(tmp_path, admin_token_file=token_file)) as s:
            body = {"path": "/m", "ufs_uri": f"file://{data}"}
            for headers in ({}, {"authorization": "Bearer wrong-wrong-wrong"}, {"authorization": "Basic x"}):
                for method, path in (("POST", MOUNTS), ("DELETE", f"{MOUNTS}/x")):
                    reply = await s.send(method, path, body, headers)
                    assert (reply.status, orjson.loads(reply.body)["code"]) == (401, "unauthenticated")
            assert (await s.mounts()).mounts == ()
            good = {"authorization": "Bearer 0123456789abcdefghij"}
            assert (await s.send("POST", MOUNTS, body, good)).status == 201
            (mount,) = (await s.mounts()).mounts
            assert (await s.send("DELETE", f"{MOUNTS}/{mount.mount_id}", b"", good)).status == 200

    run(main())


def test_a_member_is_announced_only_by_who_holds_the_cluster_key(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path)) as s:
            body = {"member": {"member_id": "w", "role": "worker", "tcp": "127.0.0.1:1"}, "session": "s"}
            assert await s.refused("POST", "/v1/members:announce", body) == (401, "unauthenticated")

    run(main())


def test_a_link_that_leads_out_of_an_allowed_root_cannot_be_mounted(tmp_path: Path, data: Path) -> None:
    async def main() -> None:
        os.symlink("/etc", data / "out")
        async with service(settings(tmp_path)) as s:
            body = {"path": "/m", "ufs_uri": f"file://{data}/out"}
            assert await s.refused("POST", MOUNTS, body) == (403, "permission_denied")

    run(main())


@pytest.mark.parametrize(
    ("mounts", "more", "setting"),
    [
        (["/m=file://{data}/missing"], {}, "mount"),
        (["/m=file://{data}/d/a"], {}, "mount"),
        (["/m=file:///etc"], {}, "mount"),
        (["/m=nonsense"], {}, "mount"),
        (["/m=file://{data}"], {"ufs_roots": ("nonsense",)}, "ufs_roots"),
        ([], {"registry": "ftp://x"}, "registry"),
        ([], {"host": "0.0.0.0"}, "cluster_key_file"),
        ([], {"cluster_key_file": Path("/nowhere/key")}, "cluster_key_file"),
        ([], {"admin_token_file": Path("/nowhere/token")}, "admin_token_file"),
        ([], {"state_dir": Path("/proc/nowhere")}, "state_dir"),
        ([], {"tls_cert": Path("/nowhere/cert")}, "tls_cert"),
    ],
)
def test_a_setting_that_cannot_work_is_named_at_start(
    tmp_path: Path, data: Path, mounts: list[str], more: dict[str, Any], setting: str
) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError) as refused:
            async with service(settings(tmp_path, [text.format(data=data) for text in mounts], **more)):
                pass
        assert refused.value.setting == setting

    run(main())


def test_a_port_that_is_taken_is_named_and_the_state_is_let_go(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with pytest.raises(ConfigError) as refused:
                async with service(settings(tmp_path, port=taken.getsockname()[1])):
                    pass
        assert refused.value.setting == "port"
        async with service(settings(tmp_path)):
            pass

    run(main())


def test_the_state_of_another_cluster_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with service(settings(tmp_path)):
            pass
        with pytest.raises(ConfigError) as refused:
            async with service(settings(tmp_path, cluster_id="other")):
                pass
        assert refused.value.setting == "cluster_id"

    run(main())
