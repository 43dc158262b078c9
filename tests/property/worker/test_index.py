"""The store index against a plain model: whatever happens in whatever order, its invariants hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay_worker.block import Block, State
from forebay_worker.extents import Geometry
from forebay_worker.index import Refused, Reserved, StoreIndex
from forebay_worker.policies import Lru
from forebay_worker.policies.rules import TierRules

CAPACITIES = (64 << 10, 128 << 10)
NAMES = st.sampled_from([f"{number:032x}" for number in range(12)])


class IndexMachine(RuleBasedStateMachine):
    """Drives one index as a store would, and as a careless one would not."""

    def __init__(self) -> None:
        super().__init__()
        self.index = StoreIndex([(capacity, Lru()) for capacity in CAPACITIES])
        self.blocks: dict[str, Block] = {}
        self.ghosts: list[Block] = []

    def in_state(self, *states: State) -> list[Block]:
        return [block for block in self.blocks.values() if block.state in states]

    def forget_the_gone(self) -> None:
        here = set(map(id, self.index))
        self.blocks = {name: block for name, block in self.blocks.items() if id(block) in here}

    @rule(name=NAMES, length=st.integers(1, 80 << 10), extent=st.sampled_from([4096, 16384]))
    def reserve(self, name: str, length: int, extent: int) -> None:
        if self.index.get(name) is not None:
            return
        before = [self.index.used(tier) for tier in range(2)]
        outcome = self.index.reserve(name, Geometry(length, extent))
        if isinstance(outcome, Reserved):
            self.blocks[name] = outcome.block
        else:
            assert [self.index.used(tier) for tier in range(2)] == before
        if isinstance(outcome, Refused) and outcome.reason == "leaving":
            assert name in self.blocks or name in {ghost.block_id for ghost in self.ghosts}

    @precondition(lambda self: bool(self.in_state(State.FILLING)))
    @rule(data=st.data())
    def land(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.in_state(State.FILLING)))
        extent = data.draw(st.integers(0, block.extents.geometry.count - 1))
        done = self.index.landed(block, extent)
        assert done == (block.state is State.SEALING)

    @precondition(lambda self: bool(self.in_state(State.SEALING)))
    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        self.index.sealed(data.draw(st.sampled_from(self.in_state(State.SEALING))))

    @precondition(lambda self: bool(self.in_state(State.FILLING, State.SEALING, State.SEALED)))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.in_state(State.FILLING, State.SEALING, State.SEALED)))
        if block.moving_to is not None:
            self.index.abandon_move(block)
        self.index.leave(block)
        assert self.index.get(block.block_id) is None

    @precondition(lambda self: any(not b.unlinked for b in self.in_state(State.LEAVING)))
    @rule(data=st.data())
    def left(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from([b for b in self.in_state(State.LEAVING) if not b.unlinked]))
        self.index.left(block)
        self.forget_the_gone()

    @precondition(lambda self: bool(self.blocks))
    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        self.index.lease(self.blocks[data.draw(st.sampled_from(sorted(self.blocks)))])

    @precondition(lambda self: any(b.leases for b in self.blocks.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        leased = [block for block in self.blocks.values() if block.leases]
        self.index.release(data.draw(st.sampled_from(leased)))
        self.forget_the_gone()

    @rule(name=NAMES)
    def read(self, name: str) -> None:
        assert self.index.read(name) == (self.index.get(name) is not None)

    @rule(name=NAMES, length=st.integers(0, 40 << 10), tier=st.integers(0, 1))
    def restore(self, name: str, length: int, tier: int) -> None:
        block = self.index.restore(name, length, tier)
        if block is not None:
            assert name not in self.blocks
            self.blocks[name] = block

    @precondition(lambda self: bool(self.in_state(State.SEALED)))
    @rule(data=st.data(), to=st.integers(0, 1))
    def begin_move(self, data: st.DataObject, to: int) -> None:
        block = data.draw(st.sampled_from(self.in_state(State.SEALED)))
        before, was_moving = self.index.used(to), block.moving_to
        if self.index.begin_move(block, to):
            assert self.index.used(to) == before + block.charge
            assert not block.is_evictable
        else:
            assert (self.index.used(to), block.moving_to) == (before, was_moving)

    @precondition(lambda self: any(b.moving_to is not None for b in self.blocks.values()))
    @rule(data=st.data(), well=st.booleans())
    def end_move(self, data: st.DataObject, well: bool) -> None:
        block = data.draw(st.sampled_from([b for b in self.blocks.values() if b.moving_to is not None]))
        was, to = block.tier, block.moving_to
        if well:
            ghost = self.index.end_move(block)
            assert (ghost.tier, block.tier) == (was, to)
            self.ghosts.append(ghost)
        else:
            self.index.abandon_move(block)
            assert block.tier == was
        assert self.index.get(block.block_id) is block

    @precondition(lambda self: bool(self.ghosts))
    @rule()
    def ghost_left(self) -> None:
        ghost = self.ghosts.pop()
        before = self.index.used(ghost.tier)
        self.index.left(ghost)
        assert self.index.used(ghost.tier) == before - ghost.charge

    @rule(tier=st.integers(0, 1), low=st.floats(0.1, 0.9))
    def watermark(self, tier: int, low: float) -> None:
        self.index.set_rules(tier, TierRules(0.9, low))
        excess = self.index.excess(tier)
        for block in self.index.victims(tier, excess):
            assert block.is_evictable
            assert block.tier == tier
            self.index.leave(block)

    @invariant()
    def holds(self) -> None:
        self.index.validate()
        assert {id(block) for block in self.index} == {id(block) for block in [*self.blocks.values(), *self.ghosts]}


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
