"""What each moment of waiting was spent on: spans laid over one another. Pure.

While the training waits, each loader that is busy gets an equal part of the moment. A loader that works (checks,
decodes, puts together) is *processing*, and so is, once its stream has ended, what hands over the last that it gave.
One that reads passes its part on to what is under way for it in its process: a worker asked (*remote*, or *ufs* if
the worker had to fetch it: then the block and the worker are known), a file of this host (*local*), a master
(*metadata*), or, where a call to the SDK has none of these under way, a turn waited for (*queueing*). A call to a
mount is what its gateway does for that file meanwhile, and *fuse* where it does none of it; a call that no request of
the gateway's belongs to was served by the kernel (page cache or passthrough): *local*. Before the first loader of an
epoch lives it is *starting*.
What none of these explains is *unknown*.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from forebay.telemetry.waits import LEAVES, Span

GATEWAY = "gateway"
"""Who leaves of a gateway are by."""

CAUSES = ("metadata", "local", "remote", "ufs", "queueing", "fuse", "processing", "starting", "unknown")


class Cause(NamedTuple):
    """Why; and of the under store's reads which file, block and worker."""

    name: str
    path: str = ""
    block: str = ""
    member: str = ""


class Stretch(NamedTuple):
    """A part of a wait with one explanation: seconds by cause."""

    began_s: float
    ended_s: float
    epoch: int
    parts: dict[Cause, float]


@dataclass
class _Now:
    """What is under way at a moment."""

    waits: list[Span] = field(default_factory=list)
    streams: list[Span] = field(default_factory=list)
    states: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    leaves: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    born: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)
    over: set[int] = field(default_factory=set)
    epoch: int = 0

    def begin(self, span: Span) -> None:
        self._place(span).append(span)
        if span.kind == "wait":
            self.epoch = span.epoch
        if span.by and span.kind in ("stream", "read", "work"):
            self.born |= {wait.epoch for wait in self.waits}

    def end(self, span: Span) -> None:
        self._place(span).remove(span)
        if span.kind == "stream":
            self.over.add(self.epoch)

    def _place(self, span: Span) -> list[Span]:
        if span.kind == "wait":
            return self.waits
        if span.kind == "stream":
            return self.streams
        if span.kind in LEAVES:
            return self.leaves[span.by]
        return self.states[span.by]

    # -- who is busy with what

    def causes(self, epoch: int) -> dict[Cause, float]:
        """Parts of one."""
        busy, is_out = list[dict[Cause, float]](), False
        for by in {s.by for s in self.streams} | {b for b, held in self.states.items() if held}:
            kinds = {s.kind: s for s in self.states.get(by, ())}
            if "read" in kinds:
                busy.append(self._reading(kinds["read"]))
            elif "given" in kinds and "work" not in kinds:
                is_out = True
            else:
                busy.append({Cause("processing"): 1.0})
        if busy:
            return _mean(busy)
        if epoch not in self.born and not is_out:
            return {Cause("starting"): 1.0}
        if is_out or epoch in self.over:  # put together and handed over
            return {Cause("processing"): 1.0}
        return {Cause("unknown"): 1.0}

    def _reading(self, read: Span) -> dict[Cause, float]:
        under_way = self.leaves.get(read.by.partition("-")[0], [])
        mine = [leaf for leaf in under_way if is_about(leaf.path, read.path)] or under_way
        if not mine:
            return {Cause("unknown"): 1.0}
        mine = [leaf for leaf in mine if leaf.kind != "queueing"] or mine
        return _mean([self._leaf(leaf) for leaf in mine])

    def _leaf(self, leaf: Span) -> dict[Cause, float]:
        if leaf.kind != "mount":
            return {_cause(leaf): 1.0}
        inner = self.inside(leaf)
        if inner:
            return _mean([{_cause(i): 1.0} for i in inner])
        return {Cause("fuse" if id(leaf) in self.asked else "local"): 1.0}

    def inside(self, mount: Span) -> list[Span]:
        """What the gateway does for a call to the mount."""
        return [leaf for leaf in self.leaves.get(GATEWAY, ()) if is_about(mount.path, leaf.path)]


def attribute(spans: Sequence[Span]) -> list[Stretch]:
    """All waits, in order, cut where anything changes."""
    spans = [*spans, *_lives(spans)]
    asked = {id(mount) for _, _, now in _moments(spans) for mount in _mounts(now) if now.inside(mount)}
    found = []
    for began_s, ended_s, now in _moments(spans, asked):
        for wait in now.waits:
            took_s = ended_s - began_s
            parts = {cause: part * took_s for cause, part in now.causes(wait.epoch).items()}
            found.append(Stretch(began_s, ended_s, wait.epoch, parts))
    return found


def _lives(spans: Sequence[Span]) -> Iterator[Span]:
    """Of loaders that were ended without a word: from the first that is known of them to the last."""
    ended, known = {span.by for span in spans if span.kind == "stream"}, defaultdict[str, list[Span]](list)
    for span in spans:
        if span.kind in ("read", "given", "work") and span.by not in ended:
            known[span.by].append(span)
    for by, held in known.items():
        if not any(span.kind == "work" for span in held):
            yield Span("stream", min(s.began_s for s in held), max(s.ended_s for s in held), by=by)


def _mounts(now: _Now) -> list[Span]:
    return [leaf for by, held in now.leaves.items() if by != GATEWAY for leaf in held if leaf.kind == "mount"]


def _moments(spans: Sequence[Span], asked: Iterable[int] = ()) -> Iterator[tuple[float, float, _Now]]:
    """From one change to the next."""
    lasting = [span for span in spans if span.ended_s > span.began_s]
    begins = [(span.began_s, 1, number) for number, span in enumerate(lasting)]
    ends = [(span.ended_s, 0, number) for number, span in enumerate(lasting)]
    now, before_s = _Now(asked=set(asked)), 0.0
    for at_s, is_begin, number in sorted(begins + ends):
        if at_s > before_s:
            yield before_s, at_s, now
            before_s = at_s
        if is_begin:
            now.begin(lasting[number])
        else:
            now.end(lasting[number])


def is_about(path: str, name: str) -> bool:
    """Whether ``path`` is the file ``name``: one of them may be written from a deeper root, or be unknown."""
    a, b = path.strip("/"), name.strip("/")
    return not a or not b or a == b or a.endswith("/" + b) or b.endswith("/" + a)


def _cause(leaf: Span) -> Cause:
    return Cause("ufs", leaf.path, leaf.block, leaf.member) if leaf.kind == "ufs" else Cause(leaf.kind)


def _mean(parts: Sequence[dict[Cause, float]]) -> dict[Cause, float]:
    total: dict[Cause, float] = defaultdict(float)
    for part in parts:
        for cause, share in part.items():
            total[cause] += share / len(parts)
    return dict(total)
