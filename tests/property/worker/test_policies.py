"""Every policy as a state machine: the exact ones against their models, all against what the store relies on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay_worker.policies import POLICIES, Fifo, Lfu, Lru, Policy, PolicyName, Sieve
from tests.property.worker.models import LfuModel, LruModel, Model, SieveModel

UNIT = 4096
CAPACITY = 12 * UNIT
NAMES = st.sampled_from([f"{number:032x}" for number in range(16)])
SIZES = st.integers(1, 4).map(lambda pages: pages * UNIT)
DATASETS = st.sampled_from(["", "m1", "m2"])
STEPS_S = st.sampled_from([0.0, 0.1, 5.0, 700.0, 5000.0])


class PolicyMachine(RuleBasedStateMachine):
    """A store in small: blocks come when they are admitted and fit, and leave as victims or by themselves."""

    is_exact = True

    def __init__(self) -> None:
        super().__init__()
        self.policy = self.make()
        self.model = self.make_model()
        self.datasets: dict[str, str] = {}
        self.now_s = 0.0

    def make(self) -> Policy:
        return Fifo()

    def make_model(self) -> Model:
        return Model()

    @rule(step_s=STEPS_S)
    def time_passes(self, step_s: float) -> None:
        self.now_s += step_s

    @rule(name=NAMES, size=SIZES, dataset=DATASETS)
    def read(self, name: str, size: int, dataset: str) -> None:
        if name in self.model.sizes:
            self.policy.touched(name, self.now_s, dataset)
            self.model.touched(name)
            self.datasets[name] = self.datasets[name] or dataset
            return
        admission = self.policy.admit(name, size, dataset, self.now_s)
        assert admission.is_admitted == (admission.reason == "")
        assert 0 <= admission.evict_bytes <= CAPACITY
        free = CAPACITY - sum(self.model.sizes.values())
        if admission.is_admitted and size <= free:
            self.policy.inserted(name, size, dataset, self.now_s)
            self.model.inserted(name, size)
            self.datasets[name] = dataset

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        self.policy.removed(name)
        self.model.removed(name)

    @rule(wanted=st.integers(0, CAPACITY), busy=st.sets(NAMES, max_size=6), leaves=st.booleans())
    def evict(self, wanted: int, busy: set[str], leaves: bool) -> None:
        victims = self.policy.victims(wanted, self.now_s, busy=busy.__contains__)
        if self.is_exact:
            assert victims == self.model.victims(wanted, busy)
        able = sum(size for name, size in self.model.sizes.items() if name not in busy)
        freed = [self.model.sizes[name] for name in victims]
        assert len(set(victims)) == len(victims)
        assert not set(victims) & busy
        assert sum(freed) >= min(wanted, able)
        assert not freed or sum(freed) - freed[-1] < wanted, "one victim more than it takes"
        for name in victims if leaves else ():
            self.policy.removed(name)
            self.model.removed(name)

    @precondition(lambda self: len(self.model.sizes) > 0)
    @rule(data=st.data())
    def takeover(self, data: st.DataObject) -> None:
        """What another policy is told knows the same blocks."""
        other = POLICIES[data.draw(st.sampled_from(sorted(POLICIES)))](CAPACITY)
        for resident in self.policy:
            other.inserted(*resident, self.now_s)
        assert sorted(other) == sorted(self.policy)

    @invariant()
    def same_blocks(self) -> None:
        assert sum(self.model.sizes.values()) <= CAPACITY
        expected = sorted((name, size, self.datasets[name]) for name, size in self.model.sizes.items())
        assert sorted(self.policy) == expected
        assert len(self.policy) == len(expected)
        assert all(name in self.policy for name in self.model.sizes)


def machine(policy: Callable[[], Policy], reference: type[Model] | None) -> type[RuleBasedStateMachine]:
    class Machine(PolicyMachine):
        is_exact = reference is not None

        def make(self) -> Policy:
            return policy()

        def make_model(self) -> Model:
            return (reference or Model)()

    return Machine


LIMITS = settings(max_examples=25, stateful_step_count=40, deadline=None)
TestFifo = machine(Fifo, Model).TestCase
TestLru = machine(Lru, LruModel).TestCase
TestLfu = machine(Lfu, LfuModel).TestCase
TestSieve = machine(Sieve, SieveModel).TestCase
TestRandom2 = machine(lambda: POLICIES["random-2"](CAPACITY), None).TestCase
TestHold = machine(lambda: POLICIES["hold"](CAPACITY), None).TestCase
for case in (TestFifo, TestLru, TestLfu, TestSieve, TestRandom2, TestHold):
    case.settings = LIMITS


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(reads=st.lists(st.tuples(NAMES, DATASETS, STEPS_S), max_size=60))
@settings(max_examples=25, deadline=None)
def test_the_same_reads_give_the_same_victims(name: PolicyName, reads: list[tuple[str, str, float]]) -> None:
    def play() -> list[str]:
        policy, now_s = POLICIES[name](CAPACITY), 0.0
        for block, dataset, step_s in reads:
            now_s += step_s
            if block in policy:
                policy.touched(block, now_s, dataset)
            elif policy.admit(block, UNIT, dataset, now_s).is_admitted and len(policy) < 12:
                policy.inserted(block, UNIT, dataset, now_s)
        return policy.victims(CAPACITY, now_s, busy=lambda block: False)

    assert play() == play()
