"""The embedded registry under any sequence of announcements, withdrawals and time."""

from __future__ import annotations

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from forebay.contracts import Member
from forebay.contracts.members import ownership
from forebay.discovery.leases import TTL_RESTORED_S, LeaseTable
from forebay.discovery.maps import first_map, next_map
from forebay.errors import Conflict

DOWN_S = 60.0
NAMES = st.sampled_from(["a", "b", "c"])
SESSIONS = st.sampled_from(["s1", "s2", "s3"])
PORTS = st.sampled_from([1, 2])
WEIGHTS = st.sampled_from([0.0, 1.0, 2.5])
STATES = st.sampled_from(["joining", "live", "draining"])


class Registry(RuleBasedStateMachine):
    """A lease table, its maps, and a model that only knows when each lease was last held, and by whom."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LeaseTable(down_s=DOWN_S)
        self.map = first_map("c", 1000.0)
        self.now_s = 0.0
        self.until: dict[str, float] = {}  # end of the lease

    @initialize()
    def publish_nothing(self) -> None:
        self.publish()

    @rule(
        name=NAMES,
        session=SESSIONS,
        port=PORTS,
        weight=WEIGHTS,
        state=STATES,
        ttl_s=st.floats(min_value=1, max_value=30),
    )
    def announce(self, name: str, session: str, port: int, weight: float, state: str, ttl_s: float) -> None:
        member = Member(member_id=name, role="worker", tcp=f"h:{port}", capacity_weight=weight)
        member = msgspec.structs.replace(member, state=state)
        refused: Conflict | None = None
        try:
            self.table.announce(member, session, ttl_s, self.now_s)
        except Conflict as e:
            refused = e
        if refused is not None:
            assert refused.details["member_id"] == name
            if refused.details["reason"] == "held":
                assert self.is_heard(name), "nobody is refused for a member that is not there"
            return
        self.until[name] = self.now_s + ttl_s
        self.publish()
        assert member in self.map.members

    @rule(name=NAMES, session=SESSIONS, keep_place=st.booleans())
    def withdraw(self, name: str, session: str, keep_place: bool) -> None:
        if self.table.withdraw(name, session, self.now_s, keep_place=keep_place):
            self.until.pop(name, None)
        self.publish()

    @rule(seconds=st.floats(min_value=0.0, max_value=50.0))
    def let_time_pass(self, seconds: float) -> None:
        self.now_s += seconds
        before = self.map
        self.table.expire(self.now_s)
        self.publish()
        for gone in {m.member_id for m in before.members} - {m.member_id for m in self.map.members}:
            assert next(m for m in before.members if m.member_id == gone).state == "down"

    @rule()
    def restart(self) -> None:
        self.table = LeaseTable(down_s=DOWN_S)
        self.table.restore(self.map.members, self.now_s)
        states = {m.member_id: m.state for m in self.map.members}
        self.until = {n: self.now_s + TTL_RESTORED_S for n, state in states.items() if state != "down"}
        before = self.map
        self.publish()
        assert self.map is before, "a restart alone changes nothing"

    def publish(self) -> None:
        before, after = self.map, next_map(self.map, self.table.members())
        assert after.epoch >= before.epoch
        assert after.revision >= before.revision
        same = ownership(after.members) == ownership(before.members)
        assert (after.epoch == before.epoch) == same
        self.map = after

    def is_heard(self, name: str) -> bool:
        # Up to the next look of ``expire``: that is when a lease really ends.
        return any(m.member_id == name and m.state != "down" for m in self.map.members)

    @invariant()
    def a_lease_that_has_not_ended_keeps_its_member(self) -> None:
        states = {m.member_id: m.state for m in self.map.members}
        for name, until_s in self.until.items():
            if self.now_s < until_s:
                assert states.get(name) not in (None, "down"), (name, self.now_s, until_s)

    @invariant()
    def the_table_is_sound(self) -> None:
        self.table.validate()


TestRegistry = Registry.TestCase
TestRegistry.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
