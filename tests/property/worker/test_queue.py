"""The fill queue under any order of wishes, failures and withdrawals."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay_worker.extents import ExtentSet, Geometry
from forebay_worker.queue import FillQueue, Run

COUNT = 6
BLOCKS = st.sampled_from("abc")
READERS = st.integers(0, 3)


class QueueMachine(RuleBasedStateMachine):
    """Plays readers and streams. A block that is closed comes back only after its runs have ended, as in the store."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FillQueue(streams_max=3)
        self.extents: dict[str, ExtentSet] = {}
        self.runs: list[Run] = []

    @rule(name=BLOCKS)
    def open(self, name: str) -> None:
        if name not in self.extents and not any(run.block_id == name for run in self.runs):
            self.extents[name] = ExtentSet(Geometry(COUNT * 4, extent_size=4))
            self.queue.open(name, self.extents[name], run_extents_max=2)

    @rule(name=BLOCKS, reader=READERS, extents=st.sets(st.integers(0, COUNT - 1), min_size=1))
    def want(self, name: str, reader: int, extents: set[int]) -> None:
        if name in self.extents:
            self.queue.want(name, reader, sorted(e for e in extents if e not in self.extents[name]))

    @rule(name=BLOCKS, reader=READERS)
    def unwant(self, name: str, reader: int) -> None:
        self.queue.unwant(name, reader)

    @rule(name=BLOCKS)
    def complete(self, name: str) -> None:
        if name in self.extents:
            self.queue.complete(name)

    @rule()
    def take(self) -> None:
        run = self.queue.next_run()
        if run is None:
            return
        flying = {(other.block_id, extent) for other in self.runs for extent in other.extents}
        mine = {(run.block_id, extent) for extent in run.extents}
        assert not flying & mine
        assert not any(extent in self.extents[run.block_id] for extent in run.extents)
        self.runs.append(run)

    @precondition(lambda self: bool(self.runs))
    @rule(data=st.data(), landed=st.integers(0, 2))
    def end(self, data: st.DataObject, landed: int) -> None:
        run = self.runs.pop(data.draw(st.integers(0, len(self.runs) - 1)))
        arrived = list(run.extents)[:landed]
        for extent in arrived if run.block_id in self.extents else ():
            self.extents[run.block_id].add(extent)
            self.queue.landed(run, extent)
        if len(arrived) < run.count:
            self.queue.failed(run)
        self.queue.ended(run)

    @rule(name=BLOCKS)
    def close(self, name: str) -> None:
        self.extents.pop(name, None)
        self.queue.close(name)
        assert self.queue.is_idle(name)

    @invariant()
    def holds(self) -> None:
        self.queue.validate()
        assert self.queue.in_flight == len(self.runs) <= 3


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
