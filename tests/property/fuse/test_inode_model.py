"""The inode table against a model: a dict of what the kernel holds."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forebay.contracts import Entry, Layout
from forebay.errors import Overloaded
from forebay_fuse.inodes import Inode, InodeTable

LIMIT = 8
ROOT = Entry(name="", kind="dir", inode=2, mode=0o555, mtime_ns=0)
PATHS = st.sampled_from([f"/{c}" for c in "abcdef"])


def entry(path: str, version: int) -> Entry:
    """A file, or the directory of that name for version 0."""
    if version == 0:
        return Entry(name=path[1:], kind="dir", inode=7, mode=0o555, mtime_ns=0)
    found = Layout(key=path[1:], size=1, fingerprint=str(version), version_id=f"{version:032x}", block_size=4096)
    return Entry(name=path[1:], kind="file", inode=7, mode=0o444, mtime_ns=0, size=1, layout=found)


class Kernel(RuleBasedStateMachine):
    """Looks up and forgets; remembers node id and lookups of each (path, version)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = InodeTable(ROOT, "/", None, limit=LIMIT)
        self.held: dict[tuple[str, int], tuple[int, int]] = {}
        self.used: set[int] = {1}

    @rule(path=PATHS, version=st.integers(0, 2))
    def look_up(self, path: str, version: int) -> None:
        """A LOOKUP or a READDIRPLUS entry."""
        known = self.held.get((path, version))
        try:
            inode = self.table.look_up("/", entry(path, version), "m")
        except Overloaded:
            assert known is None
            assert len(self.held) == LIMIT - 1
            return
        if known is None:
            assert inode.node_id not in self.used
            self.used.add(inode.node_id)
        else:
            assert inode.node_id == known[0]
        self.held[(path, version)] = (inode.node_id, 1 + (known[1] if known else 0))

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """A FORGET of some of the lookups."""
        if not self.held:
            return
        key = data.draw(st.sampled_from(sorted(self.held)))
        node_id, lookups = self.held[key]
        given = data.draw(st.integers(1, lookups))
        self.table.forget(node_id, given)
        self.held[key] = (node_id, lookups - given)
        if lookups == given:
            del self.held[key]

    @rule(node_id=st.integers(-1, 5000), count=st.integers(1, 5))
    def forget_the_unknown(self, node_id: int, count: int) -> None:
        """A FORGET of what was never given, or of the root."""
        if node_id not in {held for held, _ in self.held.values()}:
            self.table.forget(node_id, count)

    @rule(count=st.integers(0, 10))
    def look_for_the_oldest(self, count: int) -> None:
        """Names to give back: files only, and the order alone changes."""
        found: list[Inode] = list(self.table.oldest(count))
        assert all(not inode.is_dir for inode in found)
        assert len(found) == len({inode.node_id for inode in found}) <= count

    @invariant()
    def same(self) -> None:
        """Table and model hold the same."""
        self.table.validate()
        assert len(self.table) == 1 + len(self.held)
        for (path, version), (node_id, lookups) in self.held.items():
            inode = self.table.get(node_id)
            assert inode is not None
            assert (inode.path, inode.lookups, inode.entry) == (path, lookups, entry(path, version))


TestInodeTable = Kernel.TestCase
TestInodeTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
