"""Requests that make no sense, from curl to real services: a 4xx with a code, and the service goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster
from tests.integration.cluster.plain import PROTOCOLS, Answer, curl, post

pytestmark = [pytest.mark.slow]
TOKEN = "a token of some length, says the test".replace(" ", "-").replace(",", "")
LOOKUP = json.dumps({"path": "/"})
BOTH = pytest.mark.parametrize("http", list(PROTOCOLS))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master that wants an admin token, and a worker."""
    folder = tmp_path_factory.mktemp("bodies")
    (folder / "source").mkdir()
    (folder / "source" / "file").write_text("x")
    (folder / "token").write_text(TOKEN + "\n")
    extra = {"master": ("--admin-token-file", str(folder / "token"))}
    with Cluster.of_folder(folder / "source", extra=extra) as it:
        yield it
        # whatever the tests did: all is well, and no request is counted as running for ever
        for name in it.local.children:
            assert it.status(name)["ready"] is True
            assert "handler_failed" not in it.log(name)


def port_of(cluster: Cluster, name: str) -> int:
    """The port of a service."""
    return cluster.local.children[name].spec.port


@BOTH
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_request"),
        (b"{", 400, "invalid_request"),
        (b"\xff\xfe\x00", 400, "invalid_request"),
        (b"path=/", 400, "invalid_request"),
        (b"[]", 400, "invalid_request"),
        (b"null", 400, "invalid_request"),
        (b"{}", 400, "invalid_request"),
        (b'{"path": 7}', 400, "invalid_request"),
        (b'{"path": ""}', 400, "invalid_request"),
        (b'{"path": "relative"}', 400, "invalid_request"),
        (b'{"path": "/../etc"}', 400, "invalid_request"),
        (b'{"path": "/", "colour": "red"}', 400, "invalid_request"),
        (b'{"path": "/"} {}', 400, "invalid_request"),
        (b"[" * 100_000, 400, "invalid_request"),
        (b'{"path": "' + b"a" * (1 << 21) + b'"}', 413, "too_large"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_a_body_that_is_no_request_is_refused_with_a_code(
    cluster: Cluster, http: str, body: bytes, status: int, code: str
) -> None:
    answer = post(port_of(cluster, "master"), "/v1/lookup", body, http=http)
    assert (answer.status, answer.version, answer.error["code"]) == (status, http, code)
    assert answer.error["message"]


@BOTH
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("master", "/v1/list"),
        ("master", "/v1/tickets"),
        ("master", "/v1/members:announce"),
        ("master", "/v1/members:withdraw"),
        ("worker-0", "/v1/blocks:touch"),
    ],
)
def test_every_route_that_takes_a_body_checks_it(cluster: Cluster, http: str, name: str, path: str) -> None:
    port = port_of(cluster, name)
    assert post(port, path, b"no json", http=http).error["code"] == "invalid_request"
    assert post(port, path, b'{"nonsense": 1}', http=http).error["code"] == "invalid_request"
    huge = post(port, path, b" " * (3 << 20), http=http)
    assert (huge.status, huge.error["code"]) == (413, "too_large")


@BOTH
def test_paths_methods_versions_and_queries_that_are_not_ours_are_refused(cluster: Cluster, http: str) -> None:
    port, worker = port_of(cluster, "master"), port_of(cluster, "worker-0")

    def seen(answer: Answer) -> tuple[int, str]:
        return answer.status, answer.error["code"]

    assert seen(curl(port, "/v1/nothing", http=http)) == (404, "not_found")
    assert curl(port, "/v1/lookup", http=http).status == 405
    wrong = post(port, "/v1/lookup", LOOKUP, http=http, headers=["forebay-wire: 99"])
    assert seen(wrong) == (400, "unsupported_wire_version")
    assert "99" in wrong.error["message"]
    assert seen(post(port, "/v1/lookup", LOOKUP, http=http, headers=["forebay-deadline-ms: soon"])) == (
        400,
        "invalid_request",
    )
    assert seen(curl(port, "/v1/mounts?after=-1", http=http)) == (400, "invalid_request")
    assert seen(curl(port, "/v1/cluster?after=x", http=http)) == (400, "invalid_request")
    block = f"/v1/blocks/{'0' * 32}"
    assert curl(worker, block, http=http).status in (400, 401)
    query = "mount_id=m&key=file&size=1&fingerprint=f&index=0"
    assert curl(worker, f"{block}?{query}", http=http).status in (401, 404)
    assert curl(worker, f"{block}?{query}", "-H", "forebay-ticket: forged", http=http).status == 401
    assert post(port, "/v1/lookup", LOOKUP, http=http).status == 200


@BOTH
def test_mounts_change_only_for_the_admin_token(cluster: Cluster, http: str, tmp_path: Path) -> None:
    port = port_of(cluster, "master")
    request = json.dumps({"path": "/more", "ufs_uri": f"file://{tmp_path}"})
    before = cluster.http("master", "/v1/mounts")
    for headers in ([], ["authorization: Bearer wrong"], [f"authorization: Basic {TOKEN}"], ["authorization: Bearer"]):
        answer = post(port, "/v1/mounts", request, http=http, headers=headers)
        assert (answer.status, answer.error["code"]) == (401, "unauthenticated")
        gone = curl(port, "/v1/mounts/x", "-X", "DELETE", *(p for h in headers for p in ("-H", h)), http=http)
        assert (gone.status, gone.error["code"]) == (401, "unauthenticated")
    assert cluster.http("master", "/v1/mounts") == before
    # and with it the checks go on: this is below no allowed root
    answer = post(port, "/v1/mounts", request, http=http, headers=[f"authorization: Bearer {TOKEN}"])
    assert (answer.status, answer.error["code"]) == (403, "permission_denied")
    assert TOKEN not in cluster.log("master")


def test_members_are_announced_only_with_the_cluster_key(cluster: Cluster) -> None:
    port = port_of(cluster, "master")
    member = {"member_id": "stranger", "role": "worker", "tcp": "127.0.0.1:1", "capacity_weight": 1e15}
    answer = post(port, "/v1/members:announce", json.dumps({"member": member, "session": os.urandom(8).hex()}))
    assert answer.status in (401, 403)
    assert b"stranger" not in cluster.http("master", "/v1/cluster")
    assert post(port, "/v1/members:withdraw", json.dumps({"member_id": "worker-0"})).status in (401, 403)
    assert b"worker-0" in cluster.http("master", "/v1/cluster")
