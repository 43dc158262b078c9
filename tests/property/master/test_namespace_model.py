"""The namespace against a model that knows every state the bucket ever had, while the bucket changes behind our back.

An answer must be what the bucket held at some moment within ``max_age_s``, or an error while its listing is made to
fail; a listing in pages has every name that was there all the time once, in order; and after a sync of everything,
whatever a client was told and is so no longer was told to those who watch.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.contracts import Change, LookupReply, SyncRequest
from forebay.errors import ForebayError, NotFound, UfsUnavailable
from forebay.testing import run
from tests.unit.master.kit import Kit, kit

MAX_AGE_S = 10.0
KEYS = ("f", "g-1", "g/x", "d/x", "d/y", "d/y-1", "d/e/z")
PATHS = (*KEYS, "g", "d", "d/e", "nothing")
DIRECTORIES = ("", "d", "d/e", "g")

Step = tuple[str, str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.just(0)),
        st.tuples(st.just("delete"), st.sampled_from(KEYS), st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.sampled_from([1, 4, 11])),
        st.tuples(st.just("lookup"), st.sampled_from(PATHS), st.just(0)),
        st.tuples(st.just("list"), st.sampled_from(DIRECTORIES), st.integers(1, 3)),
        st.tuples(st.just("fail"), st.sampled_from(["no", *DIRECTORIES]), st.just(0)),
        st.tuples(st.just("sync"), st.just(""), st.just(0)),
    ),
    max_size=25,
)

State = dict[str, str]
"""Fingerprint by key."""


@dataclass
class Model:
    """Every state of the bucket with the time from which it held, and what a client holds."""

    now_s: float
    states: list[tuple[float, State]] = field(default_factory=list)
    held: dict[str, str | None] = field(default_factory=dict)

    def window(self) -> list[State]:
        """The states of the last ``MAX_AGE_S``."""
        ends = [at_s for at_s, _ in self.states[1:]] + [float("inf")]
        return [s for (_, s), end_s in zip(self.states, ends, strict=True) if end_s >= self.now_s - MAX_AGE_S]

    def note(self, state: State) -> None:
        """The bucket is so from now on."""
        self.states.append((self.now_s, dict(state)))


def seen(state: State, path: str) -> str | None:
    """What a lookup of ``path`` gives in that state: a fingerprint, "dir", or nothing."""
    if not path or any(key.startswith(f"{path}/") for key in state):
        return "dir"
    return state.get(path)


def children(state: State, directory: str) -> dict[str, str]:
    """What a listing gives."""
    head = f"{directory}/" if directory else ""
    names = {key[len(head) :].partition("/")[0] for key in state if key.startswith(head)}
    return {name: seen(state, head + name) or "" for name in names}


def said(reply: LookupReply) -> str:
    return reply.entry.layout.fingerprint if reply.entry.layout is not None else "dir"


class Run:
    """The steps of one example against the parts and the model."""

    def __init__(self, parts: Kit, cursor: str) -> None:
        self.k = parts
        self.cursor = cursor
        """Where the watcher is in the feed: what was told since the last sync counts."""
        self.model = Model(parts.clock.now_s)
        self.failing: str | None = None
        self.model.note({})

    def state(self) -> State:
        return {key: version for key, (_, version) in self.k.ufs.files.items()}

    async def do(self, step: Step) -> None:
        what, name, number = step
        if what == "put":
            self.k.ufs.put(name, b"x")
            self.model.note(self.state())
        elif what == "delete":
            self.k.ufs.files.pop(name, None)
            self.model.note(self.state())
        elif what == "wait":
            self.k.clock.now_s += number
            self.model.now_s = self.k.clock.now_s
        elif what == "fail":
            self.failing = None if name == "no" else name
        elif what == "lookup":
            await self.lookup(name)
        elif what == "list":
            await self.list(name, number)
        else:
            await self.sync()

    async def lookup(self, path: str) -> None:
        try:
            answer: str | None = said(await self.k.catalog.lookup(f"/m/{path}"))
        except NotFound:
            answer = None
        assert answer in {seen(state, path) for state in self.model.window()}
        self.model.held[path] = answer

    async def list(self, directory: str, limit: int) -> None:
        found: dict[str, str] = {}
        try:
            token: str | None = None
            while True:
                page = await self.k.page(f"/m/{directory}".rstrip("/"), token, limit)
                names = [entry.name for entry in page.entries]
                assert names == sorted(names)
                assert not found or not names or names[0] > max(found)
                found |= {e.name: e.layout.fingerprint if e.layout else "dir" for e in page.entries}
                token = page.next_page_token
                if token is None:
                    break
        except UfsUnavailable:
            assert self.failing == directory or self.k.syncs.failures(self.k.mounts.table.mounts[0])
            return
        except NotFound:
            found = {}
        assert found in [children(state, directory) for state in self.model.window()]

    async def sync(self) -> None:
        self.k.clock.now_s += 0.001
        self.model.now_s = self.k.clock.now_s
        try:
            await self.k.catalog.sync(SyncRequest(path="/m", recursive=True))
        except ForebayError:
            return
        reply = await self.k.feed.changes(self.cursor, 0)
        told, self.cursor = reply.changes, reply.cursor
        now = self.state()
        for path, answer in self.model.held.items():
            if answer != seen(now, path):
                assert covers(told, path), (path, answer, seen(now, path), told)
        self.model.held.clear()


def covers(changes: tuple[Change, ...], path: str) -> bool:
    """Whether a client that was told these looks ``path`` up anew."""
    full = f"/m/{path}"
    return any(c.path == full or (c.kind in {"dir", "removed"} and full.startswith(f"{c.path}/")) for c in changes)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_answers_are_states_the_bucket_had_and_a_sync_tells_what_is_so_no_longer(steps: list[Step]) -> None:
    async def main(folder: Path) -> None:
        async with kit(folder) as k:
            await k.mount("/m", max_age_s=MAX_AGE_S)
            example = Run(k, (await k.feed.changes(None, 0)).cursor)
            k.ufs.page_max = 2
            k.ufs.fail = lambda key, token: UfsUnavailable("down") if token and key == example.failing else None
            for step in steps:
                await example.do(step)

    with tempfile.TemporaryDirectory() as folder:
        run(main(Path(folder)))
