"""Whom a read reaches, whatever maps two workers hold: no loop, no second fill by a probe."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from forebay.contracts import ClusterMap, Member
from forebay.contracts.records import MemberState
from forebay_worker.routing import Homes, ReadOptions, Route, Upstream, route

NAMES = "abcde"
PASSES_MAX = 2
PROBES_MAX = 4


STATES: tuple[MemberState, ...] = ("live", "live", "live", "down", "draining", "joining")


@st.composite
def cluster_maps(draw: st.DrawFn) -> ClusterMap:
    members = [
        Member(
            member_id=name,
            role="worker",
            tcp=f"{name}:1",
            state=draw(st.sampled_from(STATES)),
            capacity_weight=draw(st.sampled_from([0.0, 1.0, 4.0])),
        )
        for name in NAMES
        if draw(st.booleans())
    ]
    epoch = draw(st.integers(1, 9))
    return ClusterMap(cluster_id="c", epoch=epoch, revision=epoch, members=tuple(members))


HISTORIES = st.lists(cluster_maps(), min_size=1, max_size=4)


class Cluster:
    """Workers that each hold maps of their own, in which nothing is cached."""

    def __init__(self, maps: dict[str, list[ClusterMap]], suspects: dict[str, set[str]]) -> None:
        self._homes = {name: Homes(name, lambda: 0.0) for name in maps}
        for name, history in maps.items():
            newest, *older = sorted(history, key=lambda m: -m.epoch)
            self._homes[name].see(newest, older)
            for suspect in suspects[name]:
                self._homes[name].failed(suspect)

    def upstream(self, name: str, block: str, options: ReadOptions, replicas: int) -> Upstream:
        return self._homes[name].upstream(block, replicas=replicas, is_hop=options.is_hop)

    def requests(
        self, name: str, block: str, options: ReadOptions, replicas: int, *, passive: bool, full: bool
    ) -> Iterator[tuple[str, ReadOptions]]:
        """Every request that one read causes, itself included; every step fails, so all that can be asked is."""
        yield name, options
        way = self.upstream(name, block, options, replicas)
        what = route(options, is_here=False, is_fitting=True, has_home_elsewhere=way.home is not None, passive=passive)
        if what is Route.NOT_CACHED:
            return
        onward = ReadOptions(options.read_type, is_hop=True)
        probe = ReadOptions(options.read_type, is_hop=True, only_if_cached=True)
        asked = [(way.home, onward)] if way.home is not None else [(m, probe) for m in way.probes]
        if full and way.second is not None:
            asked.append((way.second, onward))
        for member, how in asked:
            assert member is not None
            yield from self.requests(member.member_id, block, how, replicas, passive=passive, full=full)


@given(
    maps=st.fixed_dictionaries({name: HISTORIES for name in NAMES}),
    suspects=st.fixed_dictionaries({name: st.sets(st.sampled_from(NAMES), max_size=2) for name in NAMES}),
    first=st.sampled_from(NAMES),
    is_hop=st.booleans(),
    replicas=st.integers(1, 3),
    passive=st.booleans(),
    full=st.booleans(),
    number=st.integers(0, 1000),
)
def test_no_read_is_sent_on_twice_and_none_comes_back(
    maps: dict[str, list[ClusterMap]],
    suspects: dict[str, set[str]],
    first: str,
    is_hop: bool,
    replicas: int,
    passive: bool,
    full: bool,
    number: int,
) -> None:
    cluster, block = Cluster(maps, suspects), f"{number:032x}"
    options = ReadOptions(is_hop=is_hop)
    asked = list(cluster.requests(first, block, options, replicas, passive=passive, full=full))
    reads = [name for name, how in asked if not how.only_if_cached]
    probes = [name for name, how in asked if how.only_if_cached]
    # a read passes its entry worker, and one more (the home, or the second it was offered to); each may probe two
    assert len(reads) <= (1 if is_hop else PASSES_MAX)
    assert len(reads) == len(set(reads))
    assert len(probes) <= PROBES_MAX


@given(maps=HISTORIES, first=st.sampled_from(NAMES), number=st.integers(0, 1000))
def test_nobody_asks_itself(maps: list[ClusterMap], first: str, number: int) -> None:
    cluster = Cluster({first: maps}, {first: set()})
    for is_hop in (False, True):
        way = cluster.upstream(first, f"{number:032x}", ReadOptions(is_hop=is_hop), 2)
        named = [m for m in (way.home, way.second, *way.probes) if m is not None]
        assert first not in {m.member_id for m in named}
        assert way.home is None or (not way.probes and way.second is None)
        assert all(m.state in {"live", "draining"} for m in named)
