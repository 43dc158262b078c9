"""Leases: who is there, by announcements and time."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from forebay.contracts import WIRE_VERSION, ClusterMap, Member, TierInfo, encode
from forebay.discovery.leases import MEMBERS_MAX, SUPERSEDED_KEPT, Lease, LeaseTable, as_down, claim
from forebay.discovery.zookeeper import ZNODE_BYTES_MAX
from forebay.errors import Conflict, InvalidRequest, Overloaded, UnsupportedWireVersion

TTL_S = 10.0
DOWN_S = 60.0


def worker(name: str = "w1", port: int = 7000, **more: object) -> Member:
    return msgspec.structs.replace(Member(member_id=name, role="worker", tcp=f"h:{port}"), **more)


def table_with(*names: str, now_s: float = 0.0) -> LeaseTable:
    table = LeaseTable(down_s=DOWN_S)
    for name in names:
        table.announce(worker(name), f"s-{name}", TTL_S, now_s)
    return table


def states(table: LeaseTable) -> dict[str, str]:
    table.validate()
    return {m.member_id: m.state for m in table.members()}


def test_a_claim_is_decided_by_the_table() -> None:
    mine, elsewhere = worker(port=7000), worker(port=7001)
    held = Lease(worker(port=7000), "old", 0.0, TTL_S, None, ("older",))
    lost, stored = (
        Lease(worker(port=7000), "old", 0.0, TTL_S, 5.0, ("older",)),
        Lease(worker(port=7000), None, 0.0, TTL_S, None, ("older",)),
    )
    expected = {
        # lease, session, address: verdict
        (None, "new", mine): "new",
        (None, "old", mine): "new",
        (held, "old", mine): "renew",
        (held, "old", elsewhere): "renew",
        (held, "older", mine): "superseded",
        (held, "older", elsewhere): "superseded",
        (held, "new", mine): "take",
        (held, "new", elsewhere): "held",
        (lost, "old", elsewhere): "renew",
        (lost, "older", mine): "superseded",
        (lost, "new", mine): "take",
        (lost, "new", elsewhere): "take",
        (stored, "new", elsewhere): "take",
        (stored, "new", mine): "take",
        (stored, "older", mine): "superseded",
    }
    for (lease, session, member), verdict in expected.items():
        assert claim(lease, member, session) == verdict, (lease, session, member)


def test_a_process_that_holds_the_tier_directories_of_the_last_one_need_not_wait_for_its_lease() -> None:
    nonce, other = "0" * 32, "1" * 32
    tiers = (TierInfo(tier="MEM", capacity_bytes=1, nonce=nonce),)
    table = LeaseTable(down_s=60.0)
    table.announce(worker(port=1, tiers=tiers), "killed", 10.0, 0.0)
    again = worker(port=2, tiers=(TierInfo(tier="MEM", capacity_bytes=1, nonce=other),))
    for succeeds in ((), (other,)):
        with pytest.raises(Conflict):
            table.announce(again, "restarted", 10.0, 1.0, succeeds)
    assert table.announce(again, "restarted", 10.0, 1.0, (nonce,))
    assert table.members() == [again]
    with pytest.raises(Conflict):  # the killed one was only paused, it seems: it is out
        table.announce(worker(port=1, tiers=tiers), "killed", 10.0, 2.0)
    table.validate()


def test_a_lease_that_is_renewed_lives_on() -> None:
    table = table_with("w1")
    for step in range(1, 10):
        table.announce(worker(), "s-w1", TTL_S, step * 6.0)
        table.expire(step * 6.0 + 5.9)
        assert states(table) == {"w1": "live"}


def test_a_member_not_heard_is_down_after_its_ttl_and_out_after_down_s() -> None:
    table = table_with("w1")
    table.expire(TTL_S - 0.01)
    assert states(table) == {"w1": "live"}
    table.expire(TTL_S)
    assert states(table) == {"w1": "down"}
    table.expire(TTL_S + DOWN_S - 0.01)
    assert states(table) == {"w1": "down"}
    table.expire(TTL_S + DOWN_S)
    assert states(table) == {}


def test_a_member_that_is_heard_again_is_live_again() -> None:
    table = table_with("w1")
    table.expire(TTL_S)
    assert table.announce(worker(), "s-w1", TTL_S, TTL_S + 1)
    assert states(table) == {"w1": "live"}
    table.expire(TTL_S + DOWN_S + 0.5)
    assert states(table) == {"w1": "down"}, "the time down before does not count"


def test_a_renewal_says_nothing_new_and_an_update_does() -> None:
    table = table_with("w1")
    assert not table.announce(worker(), "s-w1", TTL_S, 1.0)
    assert table.announce(worker(capacity_weight=2.0), "s-w1", TTL_S, 2.0)


def test_only_the_session_that_holds_an_id_can_withdraw_it() -> None:
    table = table_with("w1", "w2")
    assert not table.withdraw("w1", "another", 1.0, keep_place=False)
    assert not table.withdraw("nobody", "s-w1", 1.0, keep_place=False)
    assert table.withdraw("w1", "s-w1", 1.0, keep_place=False)
    assert table.withdraw("w2", "s-w2", 1.0, keep_place=True)
    assert states(table) == {"w2": "down"}
    table.expire(1.0 + DOWN_S)
    assert states(table) == {}


def test_a_second_process_of_one_id_is_refused_by_name() -> None:
    table = table_with("w1")
    with pytest.raises(Conflict, match=r"'w1' is in use at h:7000") as caught:
        table.announce(worker(port=7001), "second", TTL_S, 1.0)
    assert caught.value.details == {"reason": "held", "member_id": "w1", "holder": "h:7000"}


def test_the_one_an_id_was_taken_from_is_told_so_for_good() -> None:
    table = table_with("w1")
    table.announce(worker(), "second", TTL_S, 1.0)
    for _ in range(3):
        with pytest.raises(Conflict, match="taken over by a newer process"):
            table.announce(worker(), "s-w1", TTL_S, 2.0)
    table.validate()


def test_sessions_an_id_was_taken_from_are_remembered_up_to_a_limit() -> None:
    table = table_with()
    for n in range(SUPERSEDED_KEPT + 5):
        table.announce(worker(), f"s{n}", TTL_S, float(n))
    table.validate()
    with pytest.raises(Conflict, match="newer process"):
        table.announce(worker(), f"s{SUPERSEDED_KEPT + 3}", TTL_S, 99.0)


def test_stored_members_get_a_leases_time_and_go_to_whoever_comes_first() -> None:
    table = LeaseTable(down_s=DOWN_S)
    table.restore([worker("w1"), worker("w2"), as_down(worker("w3"))], 100.0)
    assert states(table) == {"w1": "live", "w2": "live", "w3": "down"}

    table.announce(worker("w1", 7009), "any", TTL_S, 101.0)
    table.expire(110.5)

    assert states(table) == {"w1": "live", "w2": "down", "w3": "down"}
    with pytest.raises(Conflict):
        table.announce(worker("w1", 7010), "other", TTL_S, 111.0)


def test_time_in_which_the_registry_was_away_counts_for_nobody() -> None:
    table = table_with("w1", "w2")
    table.withdraw("w2", "s-w2", 0.0, keep_place=True)

    table.forgive(500.0, 505.0)
    table.expire(505.0)

    assert states(table) == {"w1": "live", "w2": "down"}
    table.expire(510.0)
    assert states(table)["w1"] == "down", "ten seconds after it was heard, the gap not counted"


def test_forgiveness_lets_no_lease_outlive_its_ttl_from_now() -> None:
    table = table_with("w1", now_s=500.0)
    table.forgive(400.0, 500.0)
    table.expire(500.0 + TTL_S)
    assert states(table) == {"w1": "down"}


def test_a_draining_member_that_vanishes_gets_no_ownership_back() -> None:
    assert as_down(worker(state="draining", capacity_weight=5.0)).capacity_weight == 0.0
    assert as_down(worker(state="joining", capacity_weight=5.0)).capacity_weight == 0.0
    assert as_down(worker(capacity_weight=5.0)).capacity_weight == 5.0


def test_a_full_cluster_refuses_newcomers_and_keeps_its_members() -> None:
    table = table_with(*(f"w{n}" for n in range(MEMBERS_MAX)))
    with pytest.raises(Overloaded):
        table.announce(worker("one-more"), "s", TTL_S, 1.0)
    assert not table.announce(worker("w7"), "s-w7", TTL_S, 1.0)
    table.validate()


def test_no_registry_takes_a_member_that_is_down_or_of_another_wire_version() -> None:
    table = table_with()
    with pytest.raises(InvalidRequest, match="down"):
        table.announce(worker(state="down"), "s", TTL_S, 0.0)
    with pytest.raises(UnsupportedWireVersion, match="'w1' speaks wire version 99, this cluster 1"):
        table.announce(worker(wire_version=99), "s", TTL_S, 0.0)
    assert states(table) == {}
    # but it takes one of the version after
    assert table.announce(worker(wire_version=WIRE_VERSION + 1), "s", TTL_S, 0.0)
    assert states(table) == {"w1": "live"}


def test_a_full_map_fits_a_znode() -> None:
    tiers = tuple(TierInfo(tier=t, capacity_bytes=1 << 40, nonce="f" * 32) for t in ("MEM", "SSD"))
    long = worker("w" * 40, uds="/run/forebay/worker.sock", tiers=tiers, version="0.1.0", capacity_weight=1e12 / 3)
    members = tuple(msgspec.structs.replace(long, member_id=f"{long.member_id}{n}") for n in range(MEMBERS_MAX))
    full = ClusterMap(cluster_id="c", epoch=1, revision=1, members=members)
    assert len(encode(full)) < ZNODE_BYTES_MAX


def test_every_pair_of_state_and_input_has_an_outcome() -> None:
    leases = [
        None,
        *(
            Lease(worker(), session, 0.0, TTL_S, lost_s, ("older",))
            for session, lost_s in itertools.product(("old", None), (None, 5.0))
        ),
    ]
    for lease, session, port in itertools.product(leases, ("old", "older", "new"), (7000, 7001)):
        assert claim(lease, worker(port=port), session) in ("new", "renew", "take", "held", "superseded")
