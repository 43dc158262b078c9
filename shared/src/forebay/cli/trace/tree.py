"""A trace as a tree, and where its time went. Pure.

Services' clocks differ: a span that does not lie within its parent of another process is moved, with all below it,
into the middle of it. The time of the whole read is then shared out along the path that ends last: at each moment it
belongs to the deepest span under way, so the shares add up to the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from forebay.contracts.traces import KeptSpan

DEPTH_MAX = 64
"""Spans below one another; what is deeper is left out of the shares."""


@dataclass
class Node:
    """A span in its place; ``begin_s`` and ``end_s`` are seconds from the root's begin, by the root's clock."""

    span: KeptSpan
    begin_s: float
    end_s: float
    children: list[Node] = field(default_factory=list)
    is_orphan: bool = False

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """This and all below, each with its depth, in the order in which they began."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


@dataclass(frozen=True)
class Stretch:
    """A part of the read's time that one span had for itself."""

    node: Node
    begin_s: float
    end_s: float


def build(spans: Sequence[KeptSpan], root_id: str) -> Node:
    """The tree of a trace below the span ``root_id``; what names a parent that nobody kept hangs below the root."""
    by_id = {span.span_id: span for span in spans}
    root_span = by_id[root_id]
    below: dict[str, list[KeptSpan]] = {}
    orphans: set[str] = set()
    for span in by_id.values():
        if span.span_id == root_id:
            continue
        parent_id = span.parent_id or ""
        if parent_id not in by_id:
            orphans.add(span.span_id)
            parent_id = root_id
        below.setdefault(parent_id, []).append(span)
    root = Node(root_span, 0.0, root_span.took_s)
    pending = [(root, root_span.started_s)]
    while pending:
        node, zero_s = pending.pop()
        for span in below.pop(node.span.span_id, ()):
            child = _placed(span, node, zero_s)
            child.is_orphan = span.span_id in orphans
            node.children.append(child)
            pending.append((child, span.started_s - child.begin_s))
        node.children.sort(key=lambda child: child.begin_s)
    return root


def _placed(span: KeptSpan, parent: Node, zero_s: float) -> Node:
    """``zero_s`` is the root's begin by the clock of the parent's process."""
    begin_s = span.started_s - zero_s
    is_within = parent.begin_s <= begin_s and begin_s + span.took_s <= parent.end_s
    if span.member_id != parent.span.member_id and not is_within:
        spare_s = parent.end_s - parent.begin_s - span.took_s
        begin_s = parent.begin_s + max(0.0, spare_s / 2)
    return Node(span, begin_s, begin_s + span.took_s)


def stretches(root: Node) -> list[Stretch]:
    """The time of ``root``, shared out among it and what is below it; in no order, without overlaps or holes."""
    found: list[Stretch] = []
    _share(root, root.begin_s, root.end_s, found, DEPTH_MAX)
    return found


def _share(node: Node, begin_s: float, end_s: float, found: list[Stretch], depth: int) -> None:
    at_s = end_s
    for child in sorted(node.children, key=lambda c: c.end_s, reverse=True) if depth else ():
        child_end_s, child_begin_s = min(child.end_s, at_s), max(child.begin_s, begin_s)
        if child_begin_s >= child_end_s:
            continue
        if child_end_s < at_s:
            found.append(Stretch(node, child_end_s, at_s))
        _share(child, child_begin_s, child_end_s, found, depth - 1)
        at_s = child_begin_s
    if at_s > begin_s:
        found.append(Stretch(node, begin_s, at_s))


def within(stretch: Stretch, others: Iterable[Node]) -> float:
    """Seconds of the stretch in which at least one of ``others`` was under way."""
    at_s, covered_s = stretch.begin_s, 0.0
    for other in sorted(others, key=lambda node: node.begin_s):
        begin_s, end_s = max(at_s, other.begin_s), min(stretch.end_s, other.end_s)
        if end_s > begin_s:
            covered_s += end_s - begin_s
            at_s = end_s
    return covered_s
