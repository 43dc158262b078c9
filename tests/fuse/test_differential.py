"""The mount against a plain copy of the folder, call by call: Hypothesis chooses the calls, several handles at once.

The mount's consistency class is `always`, so every look must show what the under store has now. A file that was
replaced or removed leaves handles of its old version behind: each read of theirs gives the old version's bytes or
ESTALE, never anything else (SEMANTICS.md, Versions). Each example has a folder of its own, in one cluster for each way
of reading.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from forebay.cli.cluster import ClusterSpec, LocalCluster

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
T = TypeVar("T")
BLOCK_BYTES = 4 << 20
HANDLES_MAX = 6
DIRECT_ALIGN = 4096
EXAMPLES, STEPS = 10, 40

NAMES = st.sampled_from(["one", "two", "three", "ünï ✓", "sub/four"])
SIZES = st.sampled_from([0, 1, 4096, 100_001, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES + 777])
COUNTS = st.sampled_from([0, 1, 13, 4096, 65_536, 150_000, 600_000])
OFFSETS = st.one_of(
    st.integers(0, 110_000),
    st.integers(BLOCK_BYTES - 5000, BLOCK_BYTES + 5000),
    st.integers(0, 2 * BLOCK_BYTES + 10_000),
)
WAYS = {
    "passthrough": ((), True),
    "cached": (("--no-passthrough",), True),
    "forgetful": (("--no-passthrough", "--no-kernel-cache"), True),
    "direct": (("--direct-io",), True),
    "remote": (("--no-passthrough",), False),
}


@dataclass
class Handle:
    """An open file on both sides, and the bytes of the version that was opened."""

    name: str
    mounted: int
    plain: int
    data: bytes = field(repr=False)
    is_current: bool = True


@dataclass
class Sides:
    """The source below the cluster, its mount, and a place for plain copies."""

    source: Path
    mount: Path
    plain: Path


class Mounted(RuleBasedStateMachine):
    """Does everything twice."""

    sides: ClassVar[Sides]
    numbers: ClassVar[Iterator[int]] = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        folder = f"run-{next(self.numbers)}"
        self.source, self.mount, self.plain = (
            side / folder for side in (self.sides.source, self.sides.mount, self.sides.plain)
        )
        self.versions: dict[str, bytes] = {}
        self.handles: list[Handle] = []

    # -- what there is

    @initialize(sizes=st.lists(SIZES, min_size=2, max_size=2))
    def begin(self, sizes: list[int]) -> None:
        """A folder that is empty but for two files."""
        for top in (self.source, self.plain):
            (top / "sub").mkdir(parents=True)
        for name, size in zip(("one", "sub/four"), sizes, strict=True):
            self.put(name, size)

    @rule(name=NAMES, size=SIZES)
    def put(self, name: str, size: int) -> None:
        """A new file, or a new version, as object stores and careful writers do it."""
        data = random.Random(next(self.numbers)).randbytes(size)
        for top in (self.source, self.plain):
            new = top / "new"
            new.write_bytes(data)
            new.chmod(0o640)
            os.replace(new, top / name)
        times = (self.source / name).stat()
        os.utime(self.plain / name, ns=(times.st_mtime_ns, times.st_mtime_ns))
        self.versions[name] = data
        self.outdate(name)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        """A file goes."""
        if name in self.versions:
            for top in (self.source, self.plain):
                (top / name).unlink()
            del self.versions[name]
            self.outdate(name)

    def outdate(self, name: str) -> None:
        """Handles of that name are of an old version now."""
        for handle in self.handles:
            if handle.name == name:
                handle.is_current = False

    @rule(names=st.sampled_from([False] * 7 + [True]))
    def forget(self, names: bool) -> None:
        """The kernel drops pages of what is open; now and then all names, of the whole machine (which is slow)."""
        for handle in self.handles:
            os.posix_fadvise(handle.mounted, 0, 0, os.POSIX_FADV_DONTNEED)
        if names:
            Path("/proc/sys/vm/drop_caches").write_text("2")

    # -- names

    @rule(name=st.one_of(NAMES, st.sampled_from(["none", "one/x", "sub", ".", "sub/none"])))
    def look(self, name: str) -> None:
        """``stat``, or the same errno."""
        assert outcome(lambda: shown(self.mount / name)) == outcome(lambda: shown(self.plain / name))

    @rule(folder=st.sampled_from([".", "sub", "none", "one"]))
    def list_names(self, folder: str) -> None:
        """Names with kinds, in byte order."""
        plain = outcome(lambda: sorted(names(self.plain / folder), key=lambda entry: os.fsencode(entry[0])))
        assert outcome(lambda: names(self.mount / folder)) == plain

    # -- bytes

    @precondition(lambda self: len(self.handles) < HANDLES_MAX)
    @rule(name=NAMES)
    def open(self, name: str) -> None:
        """A handle on both sides, or the same errno."""
        plain = outcome(lambda: os.open(self.plain / name, os.O_RDONLY))
        mounted = outcome(lambda: os.open(self.mount / name, os.O_RDONLY))
        if isinstance(plain, str) or isinstance(mounted, str):
            assert mounted == plain
            return
        self.handles.append(Handle(name, mounted, plain, self.versions[name]))

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), count=COUNTS)
    def read(self, data: st.DataObject, count: int) -> None:
        """At the handle's own place."""
        handle = data.draw(st.sampled_from(self.handles))
        at = os.lseek(handle.mounted, 0, os.SEEK_CUR)
        assert at == os.lseek(handle.plain, 0, os.SEEK_CUR)
        if not self.same(handle, at, lambda fd: os.read(fd, count)):
            os.lseek(handle.mounted, at, os.SEEK_SET)
            os.lseek(handle.plain, at, os.SEEK_SET)

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), count=COUNTS, offset=OFFSETS)
    def pread(self, data: st.DataObject, count: int, offset: int) -> None:
        """Anywhere, past the end as well."""
        self.same(data.draw(st.sampled_from(self.handles)), offset, lambda fd: os.pread(fd, count, offset))

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), offset=OFFSETS, whence=st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]))
    def seek(self, data: st.DataObject, offset: int, whence: int) -> None:
        """Forward and back."""
        handle = data.draw(st.sampled_from(self.handles))
        by = offset if whence == os.SEEK_SET else -offset
        found = [outcome(partial(os.lseek, fd, by, whence)) for fd in (handle.mounted, handle.plain)]
        assert found[0] == found[1]

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def fstat(self, data: st.DataObject) -> None:
        """The version that was opened, whatever there is now."""
        handle = data.draw(st.sampled_from(self.handles))
        mounted, plain = os.fstat(handle.mounted), os.fstat(handle.plain)
        assert (mounted.st_size, mounted.st_mtime_ns) == (plain.st_size, plain.st_mtime_ns)

    @precondition(lambda self: any(handle.is_current and handle.data for handle in self.handles))
    @rule(data=st.data(), start=OFFSETS, count=COUNTS, shared=st.booleans())
    def map(self, data: st.DataObject, start: int, count: int, shared: bool) -> None:
        """A mapping of a current version; in a child, for a page that cannot be read is a signal."""
        handle = data.draw(st.sampled_from([h for h in self.handles if h.is_current and h.data]))
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE

        def agree() -> bool:
            with mmap.mmap(handle.mounted, 0, flags=flags, prot=mmap.PROT_READ) as mapped:
                return mapped[start : start + count] == handle.data[start : start + count]

        assert in_child(agree), handle.name

    @rule(name=NAMES, pages=st.integers(1, 100), page=st.integers(0, 2100))
    def read_direct(self, name: str, pages: int, page: int) -> None:
        """``O_DIRECT``, beside whatever else is open of the file."""
        fd = outcome(lambda: os.open(self.mount / name, os.O_RDONLY | os.O_DIRECT))
        if isinstance(fd, str):
            assert name not in self.versions
            return
        try:
            with mmap.mmap(-1, pages * DIRECT_ALIGN) as buffer:
                got = os.preadv(fd, [buffer], page * DIRECT_ALIGN)
                assert buffer[:got] == self.versions[name][page * DIRECT_ALIGN :][: pages * DIRECT_ALIGN]
        finally:
            os.close(fd)

    @precondition(lambda self: self.handles)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """One handle, on both sides."""
        handle = data.draw(st.sampled_from(self.handles))
        self.handles.remove(handle)
        os.close(handle.mounted)
        os.close(handle.plain)

    def same(self, handle: Handle, at: int, call: Callable[[int], bytes]) -> bool:
        """Whether the mount gave what the plain file gives from ``at``. An old version may be ESTALE instead, and a
        read of which the kernel holds the first pages ends with them: then what follows is ESTALE."""
        mounted, plain = outcome(lambda: call(handle.mounted)), outcome(lambda: call(handle.plain))
        if mounted == "ESTALE" and not handle.is_current:
            return False
        if not handle.is_current and mounted and mounted != plain and plain[: len(mounted)] == mounted:
            assert outcome(lambda: os.pread(handle.mounted, 1, at + len(mounted))) == "ESTALE"
            return False
        assert mounted == plain, (handle.name, handle.is_current, brief(mounted), brief(plain))
        return True

    @invariant()
    def handles_are_few(self) -> None:
        """The machine itself is right."""
        assert len(self.handles) <= HANDLES_MAX

    def teardown(self) -> None:
        """Everything that is there is read once more, and closed."""
        try:
            for name, data in self.versions.items():
                assert (self.mount / name).read_bytes() == data
        finally:
            for handle in self.handles:
                os.close(handle.mounted)
                os.close(handle.plain)
            for top in (self.source, self.plain):
                shutil.rmtree(top, ignore_errors=True)


def outcome(call: Callable[[], T]) -> T | str:
    """What a call gave, or the name of its errno."""
    try:
        return call()
    except OSError as e:
        return errno.errorcode[e.errno or 0]


def shown(path: Path) -> tuple[object, ...]:
    """What both sides must agree on; directories have no size and no time of their own."""
    found = path.stat()
    kind = stat.S_IFMT(found.st_mode)
    return (
        (kind, found.st_size, found.st_mtime_ns, stat.S_IMODE(found.st_mode) & 0o555) if stat.S_ISREG(kind) else (kind,)
    )


def names(folder: Path) -> list[tuple[str, bool]]:
    """Names, and whether they are directories, in the order in which they come."""
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir()) for entry in entries]


def brief(found: bytes | str) -> object:
    """Bytes by their length and the place where they begin."""
    return found if isinstance(found, str) else (len(found), found[:16].hex())


def in_child(check: Callable[[], bool]) -> bool:
    """Whether a check holds, made in a process of its own."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("way", sorted(WAYS))
def test_the_mount_and_a_plain_copy_cannot_be_told_apart(way: str) -> None:
    # given a cluster and a mount that asks each time
    flags, short_circuit = WAYS[way]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forebay-test-")))
        sides = Sides(folder / "source", folder / "mount", folder / "plain")
        for path in (sides.source, sides.mount, sides.plain):
            path.mkdir()
        stack.enter_context(LocalCluster(cluster_of(sides, flags, short_circuit=short_circuit)))
        # when Hypothesis does what it likes, then both sides say the same
        machine = type("MountedNow", (Mounted,), {"sides": sides})
        run_state_machine_as_test(machine, settings=BOUNDS)


BOUNDS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    phases=(Phase.generate,),  # a shorter story would take minutes of real calls
    database=None,
    suppress_health_check=list(HealthCheck),
)


def cluster_of(sides: Sides, gateway: tuple[str, ...], *, short_circuit: bool) -> ClusterSpec:
    """One worker with blocks of 4 MiB; names are asked for each time."""
    return ClusterSpec(
        mounts=(f"/=file://{sides.source}",),
        ufs_roots=(f"file://{sides.source}",),
        worker_mem_bytes=64 << 20,
        mount_dirs=(sides.mount,),
        short_circuit=short_circuit,
        extra={"master": ("--block-size", str(BLOCK_BYTES), "--max-age-s", "0"), "gateway": gateway},
    )
