"""The gate: tickets, targets, block ids, and what is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forebay.contracts import BlockTarget, Mount, MountsReply
from forebay.contracts.blocks import block_query
from forebay.contracts.identity import block_id
from forebay.contracts.tickets import LEEWAY_S, KeyRing, TicketClaims, sign
from forebay.errors import InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from forebay.ufs import AllowedRoots, UfsUri
from forebay_worker.access import REMEMBERED_MAX, Asked, Gate
from forebay_worker.mounts import MountBook
from tests.unit.worker.kit import BLOCK_SIZE, MOUNT, URI

RING = KeyRing((("k1", b"0123456789abcdef"),))
ROOTS = AllowedRoots.parse(["file:///data"])


def reply(*mounts: Mount, revision: int = 1, cluster: str = "c") -> MountsReply:
    return MountsReply(cluster_id=cluster, revision=revision, mounts=mounts)


def book(*mounts: Mount) -> MountBook:
    known = MountBook("c", ROOTS)
    known.take(reply(*(mounts or (MOUNT,))))
    return known


def ticket(**changes: Any) -> str:
    claims: dict[str, Any] = {
        "cluster": "c",
        "mount_id": "m1",
        "generation": 1,
        "prefix": "",
        "client": "x",
        "rights": "r",
        "expires_at_s": 1000.0,
    }
    return sign(RING, TicketClaims(**(claims | changes)))


def check(
    gate: Gate, *, key: str = "a/b", index: int = 0, size: int = 40 << 20, now_s: float = 0.0, **more: Any
) -> Asked:
    target = BlockTarget(mount_id="m1", key=key, size=size, fingerprint="f", index=index)
    name = block_id(URI.version_id(MOUNT.options, "a/b", "f"), BLOCK_SIZE, index)
    given: dict[str, Any] = {"ticket": ticket(), "grace_s": 0.0} | more
    return gate.check(name, block_query(target), given["ticket"], now_s=now_s, grace_s=given["grace_s"])


def test_the_worker_derives_length_and_offset_of_the_block_itself() -> None:
    asked = check(Gate(RING, "c", book()), index=2)
    assert (asked.offset, asked.length) == (32 << 20, 8 << 20)


def test_a_request_is_remembered_until_its_ticket_ends() -> None:
    gate = Gate(RING, "c", book())
    first = check(gate)
    assert check(gate, now_s=1000 + LEEWAY_S) is first
    with pytest.raises(Unauthenticated):
        check(gate, now_s=1001 + LEEWAY_S)
    assert check(gate, now_s=1001 + LEEWAY_S, grace_s=10.0).block_id == first.block_id
    with pytest.raises(Unauthenticated):
        check(gate, now_s=1001 + LEEWAY_S)


def test_a_new_mount_table_forgets_what_was_allowed_before() -> None:
    known = book()
    gate = Gate(RING, "c", known)
    check(gate)
    known.take(reply(revision=2))
    with pytest.raises(NotFound):
        check(gate)


def test_a_refused_request_is_not_remembered_as_allowed() -> None:
    gate = Gate(RING, "c", book())
    for _ in range(2):
        with pytest.raises(PermissionDenied):
            check(gate, ticket=ticket(prefix="other"))


@pytest.mark.parametrize(
    ("prefix", "key", "is_inside"),
    [("", "a/b", True), ("a", "a/b", True), ("a/", "a/b", True), ("a/b", "a/b", True), ("a/b/c", "a/b", False)],
)
def test_a_prefix_is_whole_path_segments(prefix: str, key: str, is_inside: bool) -> None:
    gate = Gate(RING, "c", book())
    if is_inside:
        assert check(gate, key=key, ticket=ticket(prefix=prefix)).target.key == key
    else:
        with pytest.raises(PermissionDenied):
            check(gate, key=key, ticket=ticket(prefix=prefix))


@pytest.mark.parametrize("key", ["../a/b", "a/../a/b", "/a/b", "a//b", "a/./b", "a/b\0"])
def test_a_key_that_is_no_path_is_refused(key: str) -> None:
    with pytest.raises(InvalidRequest):
        check(Gate(RING, "c", book()), key=key)


def test_a_key_cannot_leave_the_ticket_by_its_spelling() -> None:
    with pytest.raises((PermissionDenied, InvalidRequest)):
        check(Gate(RING, "c", book()), key="pub/../a/b", ticket=ticket(prefix="pub"))


def test_a_block_behind_the_end_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        check(Gate(RING, "c", book()), index=3)
    with pytest.raises(InvalidRequest):
        check(Gate(RING, "c", book()), size=0)


def test_a_generation_from_the_future_is_unknown_and_one_from_the_past_is_over() -> None:
    gate = Gate(RING, "c", book())
    with pytest.raises(NotFound):
        check(gate, ticket=ticket(generation=2))
    with pytest.raises(PermissionDenied):
        check(gate, ticket=ticket(generation=0))


def test_the_memory_is_bounded() -> None:
    gate = Gate(RING, "c", book())
    for number in range(REMEMBERED_MAX + 10):
        check(gate, ticket=ticket(client=str(number % 20)), size=(40 << 20) + number)
    assert len(gate._asked) == REMEMBERED_MAX
    long_key = "/".join(["k" * 250] * 16)
    target = BlockTarget(mount_id="m1", key=long_key, size=1, fingerprint="f", index=0)
    name = block_id(URI.version_id(MOUNT.options, long_key, "f"), BLOCK_SIZE, 0)
    newest = next(reversed(gate._asked))
    gate.check(name, block_query(target), ticket(), now_s=0.0)
    assert next(reversed(gate._asked)) == newest


def test_a_mount_outside_the_roots_is_known_and_refused(tmp_path: Path) -> None:
    known = MountBook("c", ROOTS)
    uri = UfsUri.parse("file:///elsewhere")
    wrong = Mount(mount_id="m1", generation=1, path="/", ufs_uri=str(uri), ufs_id=MOUNT.ufs_id, block_size=BLOCK_SIZE)
    assert list(known.take(reply(wrong))) == ["m1"]
    with pytest.raises(PermissionDenied):
        known.find("m1")
    assert known.all() == []


def test_the_table_of_another_cluster_is_refused() -> None:
    known = book()
    with pytest.raises(InvalidRequest):
        known.take(reply(cluster="other"))
    assert known.find("m1").mount == MOUNT
