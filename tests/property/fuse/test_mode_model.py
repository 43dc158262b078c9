"""Open modes against what the kernel enforces: one mode and one backing file for each inode that is open."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forebay_fuse.modes import Mode, OpenModes

NODES = st.integers(1, 4)


class Kernel(RuleBasedStateMachine):
    """Opens and closes as it likes, and refuses what the real one refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.modes = OpenModes()
        self.open: dict[int, list[tuple[Mode, int]]] = {}
        self.registered: set[int] = set()
        self.next = 1

    @rule(node=NODES, wished=st.sampled_from(Mode))
    def opens(self, node: int, wished: Mode) -> None:
        """An OPEN. A backing file is registered only for an inode that is closed."""
        held = self.open.setdefault(node, [])
        backing_id = 0
        if wished is Mode.PASSTHROUGH and not held:
            backing_id, self.next = self.next, self.next + 1
            self.registered.add(backing_id)
        state = self.modes.open(node, wished, backing_id)
        answer = (state.mode, state.backing_id)
        assert (state.mode is Mode.PASSTHROUGH) == (state.backing_id in self.registered)
        if held:
            assert answer == held[0]  # else the program gets EIO
        else:
            assert state.mode is wished
        held.append(answer)

    @rule(node=NODES)
    def closes(self, node: int) -> None:
        """A RELEASE; one of a node that is not open does nothing."""
        held = self.open.get(node, [])
        given = self.modes.close(node)
        if not held:
            assert given == 0
            return
        _, backing_id = held.pop()
        assert given == (0 if held else backing_id)
        self.registered.discard(given)

    @invariant()
    def same(self) -> None:
        """What is open is known, and nothing else; no backing file is left behind or given back too early."""
        self.modes.validate()
        held = {node: answers for node, answers in self.open.items() if answers}
        assert len(self.modes) == len(held)
        for node, answers in held.items():
            state = self.modes.get(node)
            assert state is not None
            assert state.opens == len(answers)
        assert self.registered == {answers[0][1] for answers in held.values()} - {0}


TestOpenModes = Kernel.TestCase
TestOpenModes.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
