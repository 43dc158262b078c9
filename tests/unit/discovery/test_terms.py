"""Who leads next, and what a follower of a table must read: decisions alone."""

from __future__ import annotations

import pytest

from forebay.contracts.tickets import KeyRing
from forebay.discovery.access import access
from forebay.discovery.terms import (
    RECENT_MAX,
    Leader,
    Table,
    TableHead,
    candidate_prefix,
    changed_keys,
    changed_table,
    first_candidate,
    next_head,
    next_leader,
)
from forebay.discovery.znodes import Paths
from forebay.errors import TooLarge

PATHS = Paths("/there", "lake")
KEYS = KeyRing((("k1", b"0123456789abcdef"),))


def test_the_lowest_number_leads_whatever_the_session() -> None:
    names = [f"{candidate_prefix(9)}0000000002", f"{candidate_prefix(255)}0000000001", "garbage"]

    assert first_candidate(names) == f"{candidate_prefix(255)}0000000001"
    assert first_candidate(["garbage"]) is None


def test_epochs_grow_by_one_and_begin_at_the_clock_where_nothing_is_remembered() -> None:
    first = next_leader(None, "m1", "a:1", 7, least=1000)

    assert first == Leader(member_id="m1", tcp="a:1", epoch=1000, session="7")
    assert next_leader(first, "m2", "b:1", 8, least=1000).epoch == 1001


def test_a_follower_reads_what_changed_since_and_all_where_the_head_has_forgotten() -> None:
    head = TableHead(revision=0)
    for number in range(3):
        head = next_head(head, [f"k{number}", "both"])

    assert changed_keys(head, 3) == frozenset()
    assert changed_keys(head, 2) == frozenset({"k2", "both"})
    assert changed_keys(head, 0) == frozenset({"k0", "k1", "k2", "both"})
    assert changed_keys(head, 4) is None, "another history"
    for _ in range(RECENT_MAX):
        head = next_head(head, ["x"])
    assert len(head.recent) == RECENT_MAX
    assert changed_keys(head, 2) is None
    assert changed_keys(head, head.revision - 1) == frozenset({"x"})


@pytest.mark.parametrize("known", range(6))
def test_no_change_is_ever_missed_by_a_follower_however_far_behind(known: int) -> None:
    head, tables = TableHead(revision=0), [Table()]
    for number in range(5):
        changes: dict[str, bytes | None] = {f"k{number % 2}": f"{number}".encode()}
        tables.append(changed_table(tables[-1], changes))
        head = next_head(head, sorted(changes))

    keys = changed_keys(head, known)

    assert keys is not None
    now, then = tables[-1].records, tables[known].records
    assert {key for key in now if now[key] != then.get(key)} <= keys


def test_a_table_and_its_changes_are_bounded() -> None:
    with pytest.raises(TooLarge):
        changed_table(Table(1, {f"{n}": b"" for n in range(4096)}), {"one more": b""})
    assert changed_table(Table(1, {"a": b""}), {"a": None, "gone": None}) == Table(2, {})


def test_clients_read_maps_and_members_and_nothing_that_leads() -> None:
    guarded = access(PATHS, KEYS)

    def worlds(path: str) -> list[str]:
        return [grant for grant, (scheme, _, _) in guarded.entries(path) if scheme == "world"]

    assert worlds(PATHS.map) == worlds(PATHS.member("w1")) == worlds(PATHS.epoch(3)) == ["read"]
    assert worlds(PATHS.leader) == worlds(PATHS.record("mounts", "m-1")) == worlds(PATHS.candidates) == []
    assert worlds("/there/forebay") == worlds("/there") == ["enter"]
    assert list(access(PATHS, None).entries(PATHS.leader)) == [("all", ("world", "anyone", ""))]


def test_what_is_shown_to_zookeeper_is_not_the_key_and_is_not_printed() -> None:
    guarded = access(PATHS, KEYS)
    user, password = guarded.digests[0]

    assert user == "k1"
    assert KEYS.keys[0][1].hex() not in password
    assert guarded.digests != access(Paths("/there", "pond"), KEYS).digests
    assert password not in repr(guarded)
