"""Znodes: names, contents, what a process does about its own, and what a map writer makes of all."""

from __future__ import annotations

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.contracts import WIRE_VERSION, ClusterMap, Member, TierInfo, encode
from forebay.discovery.census import Census, take
from forebay.discovery.leases import MEMBERS_MAX
from forebay.discovery.znodes import Found, Paths, member_data, name_of, next_step, parse_member, znode_name
from forebay.errors import ForebayError, InvalidRequest

DOWN_S = 60.0


def worker(name: str = "w1", **more: object) -> Member:
    return msgspec.structs.replace(Member(member_id=name, role="worker", tcp=f"{name}:1"), **more)


@given(st.text(min_size=1, max_size=80))
def test_any_member_id_is_a_znode_name_and_back(text: str) -> None:
    name = znode_name(text)
    assert name_of(name) == text
    assert name not in (".", "..", "")
    assert "/" not in name
    assert name.isascii()
    assert name.isprintable()


def test_paths_lie_below_chroot_and_cluster() -> None:
    paths = Paths("/a/b", "my/cluster")
    assert paths.member("w.1") == "/a/b/forebay/my%2Fcluster/members/w%2E1"
    assert paths.epoch(7) < paths.epoch(10)
    assert {paths.map, paths.maps, paths.withdrawn, paths.members} == {
        f"{paths.base}/{name}" for name in ("map", "maps", "withdrawn", "members")
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"{}",
        encode(worker("w2")),
        encode(worker("w1", state="down")),
        encode(worker("w1", wire_version=WIRE_VERSION + 2)),
        encode(worker("w1", version="x" * 20_000)),
    ],
)
def test_a_znode_that_holds_no_such_member_is_refused(data: bytes) -> None:
    with pytest.raises(ForebayError):
        parse_member(data, "w1")


def test_a_member_of_the_version_after_ours_is_taken_without_what_we_do_not_know() -> None:
    member = worker("w1", wire_version=WIRE_VERSION + 1)
    assert parse_member(orjson.dumps(orjson.loads(encode(member)) | {"zone": "a"}), "w1") == member


def test_a_member_that_is_too_big_is_refused_before_it_is_sent() -> None:
    tiers = tuple(TierInfo(tier="SSD", capacity_bytes=1, nonce="0" * 32) for _ in range(1000))
    with pytest.raises(InvalidRequest, match="fewer tiers"):
        member_data(worker(tiers=tiers))
    assert parse_member(member_data(worker()), "w1") == worker()


def test_the_next_step_is_decided_by_the_table() -> None:
    wanted = worker("w1", tcp="h:1")
    same, other = encode(wanted), encode(worker("w1", tcp="h:1", uds="/x"))
    elsewhere = encode(worker("w1", tcp="h:2"))
    me, before, stranger = 100, 99, 7
    expected = [
        (None, False, "create"),
        (None, True, "create"),
        (Found(same, me), True, "keep"),
        (Found(same, me), False, "keep"),
        (Found(other, me), True, "update"),
        (Found(b"garbage", me), True, "update"),
        (Found(elsewhere, before), True, "replace"),
        (Found(elsewhere, before), False, "replace"),
        (Found(same, stranger), False, "replace"),
        (Found(b"garbage", stranger), False, "replace"),
        (Found(elsewhere, stranger), False, "held"),
        (Found(same, stranger), True, "superseded"),
        (Found(elsewhere, stranger), True, "superseded"),
    ]
    for found, was_member, step in expected:
        decided = next_step(found, wanted, session=me, own_sessions=(98, before), was_member=was_member)
        assert decided == step, (found, was_member)


def test_a_znode_of_a_process_whose_tier_directory_we_hold_is_replaced() -> None:
    nonce = "0" * 32
    wanted = worker("w1", tcp="h:1")
    theirs = encode(worker("w1", tcp="h:2", tiers=(TierInfo(tier="MEM", capacity_bytes=1, nonce=nonce),)))

    def step(*succeeds: str, was_member: bool = False) -> str:
        return next_step(
            Found(theirs, 7), wanted, session=100, own_sessions=(), was_member=was_member, succeeds=succeeds
        )

    assert step() == "held"
    assert step("1" * 32) == "held"
    assert step(nonce) == "replace"
    assert step(nonce, was_member=True) == "superseded"


BASE = ClusterMap(cluster_id="c", epoch=5, revision=50, members=(worker("a"), worker("b")))


def present(*members: Member) -> dict[str, Member]:
    return {m.member_id: m for m in members}


def states(cluster_map: ClusterMap) -> dict[str, str]:
    return {m.member_id: m.state for m in cluster_map.members}


def test_a_member_without_a_znode_is_down_until_its_time_is_over() -> None:
    look = take(Census(), BASE, present(worker("a")), (), now_s=100.0, down_s=DOWN_S)
    assert states(look.cluster_map) == {"a": "live", "b": "down"}
    assert look.cluster_map.epoch == BASE.epoch
    assert look.due_s == DOWN_S

    later = take(look.census, look.cluster_map, present(worker("a")), (), now_s=159.9, down_s=DOWN_S)
    assert later.cluster_map is look.cluster_map
    assert later.due_s == pytest.approx(0.1)

    out = take(later.census, later.cluster_map, present(worker("a")), (), now_s=160.0, down_s=DOWN_S)
    assert states(out.cluster_map) == {"a": "live"}
    assert out.cluster_map.epoch == BASE.epoch + 1
    assert out.due_s is None


def test_a_writer_that_takes_over_counts_anew() -> None:
    down = take(Census(), BASE, present(worker("a")), (), now_s=100.0, down_s=DOWN_S).cluster_map
    other = take(Census(), down, present(worker("a")), (), now_s=1000.0, down_s=DOWN_S)
    assert other.cluster_map is down
    assert other.due_s == DOWN_S


def test_a_member_that_comes_back_is_live_and_forgotten_by_the_census() -> None:
    down = take(Census(), BASE, present(worker("a")), (), now_s=100.0, down_s=DOWN_S)
    back = take(down.census, down.cluster_map, present(worker("a"), worker("b")), (), now_s=150.0, down_s=DOWN_S)
    assert states(back.cluster_map) == {"a": "live", "b": "live"}
    again = take(back.census, back.cluster_map, present(worker("a")), (), now_s=165.0, down_s=DOWN_S)
    assert again.due_s == DOWN_S


def test_a_member_that_left_on_purpose_is_out_at_once() -> None:
    look = take(Census(), BASE, present(worker("a")), {"b"}, now_s=0.0, down_s=DOWN_S)
    assert states(look.cluster_map) == {"a": "live"}


def test_a_mark_of_leaving_does_not_touch_a_member_that_is_there() -> None:
    look = take(Census(), BASE, present(worker("a"), worker("b")), {"b"}, now_s=0.0, down_s=DOWN_S)
    assert look.cluster_map is BASE


def test_a_full_map_refuses_newcomers_by_name() -> None:
    many = [worker(f"w{n:05}") for n in range(MEMBERS_MAX)]
    full = take(Census(), BASE, present(*many, worker("a"), worker("b")), (), now_s=0.0, down_s=DOWN_S)
    assert len(full.cluster_map.members) == MEMBERS_MAX
    assert full.refused == (f"w{MEMBERS_MAX - 2:05}", f"w{MEMBERS_MAX - 1:05}")
    assert {"a", "b"} <= set(states(full.cluster_map))


NAMES = ["a", "b", "c", "d"]


@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from(NAMES)),  # who has a znode
            st.sets(st.sampled_from(NAMES)),  # who is marked as having left
            st.floats(min_value=0, max_value=90),  # seconds since the last look
        ),
        max_size=25,
    )
)
def test_nobody_is_out_before_down_s_unless_it_left(looks: list[tuple[set[str], set[str], float]]) -> None:
    census, cluster_map, now_s = Census(), BASE, 0.0
    last_there: dict[str, float] = {}
    for there, left, gap_s in looks:
        now_s += gap_s
        before = cluster_map
        look = take(census, before, present(*map(worker, there)), left, now_s=now_s, down_s=DOWN_S)
        census, cluster_map = look.census, look.cluster_map
        ids = set(states(cluster_map))
        assert there <= ids
        for gone in {m.member_id for m in before.members} - ids:
            assert gone in left or now_s - last_there.get(gone, 0.0) >= DOWN_S
        for name, state in states(cluster_map).items():
            assert (state == "live") == (name in there)
        assert cluster_map.epoch >= before.epoch
        assert cluster_map.revision >= before.revision
        assert (cluster_map.epoch > before.epoch) == (ids != {m.member_id for m in before.members})
        last_there |= dict.fromkeys(there, now_s)
