"""A tier directory against a plain dict, with the process or the power ending between any two steps.

After the process ended (``kill -9``) nothing that had been finished is lost, whatever was half done is one thing or the
other, and no ``.blk`` is wrong. After the power failed all that was not synced may be lost or garbled, but what was
stays, and no ``.blk`` is wrong before the first reader can look.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay_worker.steps import NAMES
from tests.contract.worker.shelves import EXTENT, LENGTHS, SYNC_MIN, DirectoryShelf, content, pieces, put, small

IDS = [f"{first}{number:030x}" for first in ("aa", "bb") for number in range(3)]
LENGTH = {name: LENGTHS[number % len(LENGTHS)] for number, name in enumerate(IDS)}


class WorldEnds(BaseException):
    """The process is killed here."""


class Fuse:
    """Steps that end the world after a while."""

    def __init__(self) -> None:
        self.left: int | None = None

    def __call__(self, name: str) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise WorldEnds(name)


class Disk:
    """What of a directory's files is on the disk: contents by inode at their last sync. Each of these files is held
    open, so that no later file gets its inode number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.synced: dict[int, bytes] = {}
        self.held: dict[int, int] = {}

    def fsync(self, fd: int) -> None:
        self.note(Path(f"/proc/self/fd/{fd}"))

    def syncfs(self, fd: int) -> None:
        for path in self.path.rglob("*"):
            if path.is_file():
                self.note(path)

    def note(self, path: Path) -> None:
        inode = path.stat().st_ino
        if inode not in self.held:
            self.held[inode] = os.open(path, os.O_RDONLY)
        self.synced[inode] = path.read_bytes()

    def close(self) -> None:
        for fd in self.held.values():
            os.close(fd)

    def lose_power(self, manner: str) -> None:
        """Names are on the disk (the worst case); bytes only if they were synced. With ``sums`` those of sidecars and
        of the log are, and what they speak of is not."""
        for path in self.path.rglob("*"):
            if path.is_file() and path.parent != self.path / "quarantine":
                now, then = path.read_bytes(), self.synced.get(path.stat().st_ino, b"")
                if now != then and not (manner == "sums" and path.suffix in {"", ".map"}):
                    path.write_bytes(torn(now, then, "zeros" if manner == "sums" else manner))


def torn(now: bytes, then: bytes, manner: str) -> bytes:
    """A file whose latest bytes may not have reached the disk."""
    if manner == "old":
        return then
    if manner == "zeros":
        return then + bytes(max(0, len(now) - len(then))) if now.startswith(then) else bytes(len(now))
    if manner == "half":
        return now[: len(then) + (len(now) - len(then)) // 2] if now.startswith(then) else then
    return now


class Watched(DirectoryShelf):
    """Looks at every ``.blk`` before the first scan, as a gateway that finds the directory may."""

    def check_names(self) -> None:
        for path in self.path.glob("??/*.blk"):
            assert path.read_bytes() == content(path.stem, LENGTH[path.stem]), path.name


class CrashMachine(RuleBasedStateMachine):
    """``sealed`` and ``landed`` are what was finished; ``doubtful`` are blocks in whose middle the world ended."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="forebay-crash-"))
        self.fuse = Fuse()
        self.disk = Disk(self.path)
        manner = small(self.fuse, fsync=self.disk.fsync, syncfs=self.disk.syncfs)
        self.boots = 0
        self.shelf = Watched(self.path, manner)
        self.sealed: set[str] = set()
        self.durable: set[str] = set()
        self.landed: dict[str, set[int]] = {}

    def teardown(self) -> None:
        self.shelf.let_go()
        self.disk.close()
        shutil.rmtree(self.path)

    # -- steps that the world may end in

    def attempt(self, name: str, act: str, crash: int | None, extent: int = 0) -> bool:
        """Whether it was done; if not, the process ended in it and another one took over."""
        self.fuse.left = crash
        try:
            if act == "begin":
                self.shelf.begin(name, LENGTH[name])
            elif act == "land":
                self.shelf.land(name, extent, pieces(name, LENGTH[name])[extent])
            elif act == "seal":
                self.shelf.seal(name)
            elif act == "remove":
                self.shelf.remove(name)
            elif act == "sync":
                self.shelf._open().sync()
            elif act == "shorten":
                log = self.shelf._open().log
                assert log is not None
                log.rewrite(frozenset(bytes.fromhex(block) for block in self.sealed))
            return True
        except WorldEnds:
            self.fuse.left = None
            self.restart(name)
            return False
        finally:
            self.fuse.left = None

    def restart(self, doubtful: str | None) -> None:
        before_sealed, before_landed = set(self.sealed), dict(self.landed)
        self.shelf.restart(f"boot-{self.boots}")
        for name in IDS:
            if name == doubtful:
                continue
            if name in before_sealed:
                assert self.shelf.read(name) == content(name, LENGTH[name])
            elif len(before_landed.get(name, ())) == -(-LENGTH[name] // EXTENT) > 1:
                assert name in self.shelf.complete()  # all of it was there: the start gave it its name
            elif before_landed.get(name) and LENGTH[name] > EXTENT:
                assert self.shelf.present(name) == before_landed[name]
            else:
                assert self.shelf.present(name) is None
        if doubtful in before_landed and LENGTH[doubtful] > EXTENT and doubtful not in self.shelf.complete():
            assert (self.shelf.present(doubtful) or set()) >= (before_landed[doubtful] if self.keeps else set())
        self.adopt()

    keeps = True

    def adopt(self) -> None:
        """The model takes what is there for the truth from now on."""
        self.sealed = self.shelf.complete()
        self.durable &= self.sealed
        self.landed = {name: present for name in IDS if (present := self.shelf.present(name)) is not None}

    @rule(name=st.sampled_from(IDS), crash=st.one_of(st.none(), st.integers(0, 3)))
    def begin(self, name: str, crash: int | None) -> None:
        if name not in self.sealed and name not in self.landed and self.attempt(name, "begin", crash):
            self.landed[name] = set()

    @precondition(lambda self: bool(self.landed))
    @rule(data=st.data(), crash=st.one_of(st.none(), st.integers(0, 3)))
    def land(self, data: st.DataObject, crash: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.landed)))
        missing = set(range(len(pieces(name, LENGTH[name])))) - self.landed[name]
        if missing:
            extent = data.draw(st.sampled_from(sorted(missing)))
            if self.attempt(name, "land", crash, extent):
                self.landed[name].add(extent)

    @precondition(lambda self: bool(self.landed))
    @rule(data=st.data(), crash=st.one_of(st.none(), st.integers(0, 4)))
    def fill_and_seal(self, data: st.DataObject, crash: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.landed)))
        for extent in sorted(set(range(len(pieces(name, LENGTH[name])))) - self.landed[name]):
            assert self.attempt(name, "land", None, extent)
            self.landed[name].add(extent)
        if self.attempt(name, "seal", crash):
            del self.landed[name]
            self.sealed.add(name)
            if LENGTH[name] >= SYNC_MIN:
                self.durable.add(name)

    @precondition(lambda self: bool(self.landed or self.sealed))
    @rule(data=st.data(), crash=st.one_of(st.none(), st.integers(0, 3)))
    def remove(self, data: st.DataObject, crash: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.sealed | set(self.landed))))
        self.keeps = False
        self.durable.discard(name)
        if self.attempt(name, "remove", crash):
            self.landed.pop(name, None)
            self.sealed.discard(name)
        self.keeps = True

    @rule(crash=st.one_of(st.none(), st.integers(0, 1)))
    def sync(self, crash: int | None) -> None:
        before = set(self.sealed)
        if self.attempt("", "sync", crash):
            self.durable |= before

    @rule(crash=st.one_of(st.none(), st.integers(0, 1)))
    def shorten_the_log(self, crash: int | None) -> None:
        self.attempt("", "shorten", crash)

    @rule()
    def killed_at_rest(self) -> None:
        self.restart(None)

    @rule(
        manner=st.sampled_from(["old", "zeros", "half", "all", "sums"]),
        crashes=st.lists(st.integers(0, 3), max_size=2),
    )
    def power_lost(self, manner: str, crashes: list[int]) -> None:
        """Starts after it may be killed as well, one after the other."""
        self.shelf.let_go()
        self.disk.lose_power(manner)
        self.boots += 1
        for crash in crashes:
            self.fuse.left = crash
            with contextlib.suppress(WorldEnds):
                self.shelf.restart(f"boot-{self.boots}")
        self.fuse.left = None
        self.shelf.restart(f"boot-{self.boots}")
        assert self.durable <= self.shelf.complete()
        for name, file in self.shelf.files.items():
            data = Path(f"/proc/self/fd/{file.fd}").read_bytes()
            for extent in self.shelf.present(name) or ():
                start = extent * EXTENT
                assert data[start : start + EXTENT] == pieces(name, LENGTH[name])[extent]
        self.adopt()

    @invariant()
    def every_name_keeps_its_promise(self) -> None:
        assert self.shelf.complete() == self.sealed
        self.shelf.check_names()
        assert self.shelf.stray() == set()
        assert self.shelf.scanned.unknown == 0


TestCrashes = CrashMachine.TestCase
TestCrashes.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


class NamedFuse:
    """Ends the world at one step, the ``times``-th time that it is taken."""

    def __init__(self, name: str, times: int) -> None:
        self.name = name
        self.left = times
        self.is_armed = False

    def __call__(self, name: str) -> None:
        if self.is_armed and name == self.name:
            self.left -= 1
            if self.left == 0:
                raise WorldEnds(name)


def live(shelf: Watched, disk: Disk) -> None:
    """All that a directory can go through: every step twice at least."""
    for number, name in enumerate(IDS):
        put(shelf, name, LENGTH[name])
        if number % 3 == 2:
            shelf._open().sync()
    for name in IDS[:3]:
        shelf.remove(name)
    for half in range(2):
        shorten(shelf)
        put(shelf, IDS[half], LENGTH[IDS[half]])
    for boot in ("boot-1", "boot-2"):
        shelf.let_go()
        disk.lose_power("all")
        shelf.restart(boot)


def shorten(shelf: Watched) -> None:
    log = shelf._open().log
    assert log is not None
    log.rewrite(frozenset(map(bytes.fromhex, shelf.complete())))


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("step", [name for name in NAMES if not name.startswith("move.")])
def test_ended_at_any_step_nothing_complete_is_lost_and_nothing_wrong_is_named(
    tmp_path: Path, step: str, times: int
) -> None:
    """Every step by its name, whatever the machine above happened to choose."""
    disk = Disk(tmp_path)
    fuse = NamedFuse(step, times)
    shelf = Watched(tmp_path, small(fuse, fsync=disk.fsync, syncfs=disk.syncfs))
    fuse.is_armed = True
    with pytest.raises(WorldEnds, match=step):
        live(shelf, disk)
    before = shelf.complete()
    boot = (tmp_path / "boot").read_text()
    shelf.restart(boot)
    if not step.startswith("start."):
        assert shelf.complete() >= before
    assert {name: shelf.read(name) for name in before} == {name: content(name, LENGTH[name]) for name in before}
    assert (shelf.stray(), shelf.scanned.unknown) == (set(), 0)
    # and it goes on from there
    shorten(shelf)
    for name in set(IDS) - shelf.complete() - set(shelf.files):
        put(shelf, name, LENGTH[name])
    shelf.restart(boot)
    assert {name: shelf.read(name) for name in IDS if name not in shelf.files} == {
        name: content(name, LENGTH[name]) for name in IDS if name not in shelf.files
    }
    shelf.let_go()
    disk.close()
