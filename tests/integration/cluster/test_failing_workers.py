"""One of three workers is hurt while files are read: no read fails, no byte is wrong, and the worker is avoided."""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pytest

from forebay.cli.cluster import memory_folder
from forebay.client import ClientOptions
from forebay.testing import run
from forebay.testing.cluster import Cluster, eventually
from forebay.testing.faults import FaultProxy, Faults
from tests.integration.cluster.readers import READ_BYTES, Seen, read_while

pytestmark = pytest.mark.slow

MIB = 1 << 20
BLOCK = 4 * MIB
FILES = 9
BOUND = 20e6
"""Bytes a second of a worker that is well."""

SLOW = 0.05 * BOUND
BEFORE_S, AFTER_S = 3.0, 17.0
AVOIDED_AFTER_S = 11.0
VICTIM = "worker-0"


def write(folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    rng = random.Random(7)
    data = {f"shard-{number}": rng.randbytes(BLOCK + number) for number in range(FILES)}
    for name, value in data.items():
        (folder / name).write_bytes(value)
    return data


@dataclass(frozen=True)
class Bounded:
    """A cluster whose workers are reached through proxies."""

    cluster: Cluster
    proxies: dict[str, FaultProxy]
    files: dict[str, bytes]

    def options(self) -> ClientOptions:
        return self.cluster.client_options(short_circuit_dirs=(), readahead_bytes=0)

    def break_victim(self, faults: Faults, *, cut: bool = False) -> None:
        self.proxies[VICTIM].faults = faults
        if cut:
            self.proxies[VICTIM].cut()


@contextmanager
def bounded(folder: Path, workers: int = 3) -> Iterator[Bounded]:
    files = write(folder / "data")
    extra = {"master": ("--block-size", str(BLOCK))}
    with ExitStack() as stack:
        cluster = Cluster.of_folder(folder / "data", workers=workers, extra=extra)
        stack.callback(cluster.stop)
        cluster.local.prepare()
        proxies = {}
        for name in [f"worker-{n}" for n in range(workers)]:
            proxies[name] = stack.enter_context(FaultProxy(cluster.local.address(name)))
            proxies[name].faults = Faults(shared_bytes_per_s=BOUND)
            child = cluster.local.children[name]
            child.spec = replace(child.spec, args=(*child.spec.args, "--advertise", proxies[name].address))
        cluster.start()
        yield Bounded(cluster, proxies, files)


HURTS: dict[str, Callable[[Bounded], None]] = {
    "killed": lambda b: b.cluster.kill(VICTIM),
    "paused": lambda b: b.cluster.pause(VICTIM),
    "slowed to 5 percent": lambda b: b.break_victim(Faults(shared_bytes_per_s=SLOW)),
    "answering garbage": lambda b: b.break_victim(Faults(corrupt_at=3), cut=True),
    "truncating": lambda b: b.break_victim(Faults(cut_after=300_000, ending="close"), cut=True),
    "a black hole": lambda b: b.break_victim(Faults(stalled=True)),
    "refusing": lambda b: b.break_victim(Faults(refusing=True), cut=True),
}


@pytest.mark.parametrize("hurt", list(HURTS))
def test_readers_see_no_error_and_no_wrong_byte_and_the_worker_is_avoided(tmp_path: Path, hurt: str) -> None:
    with bounded(tmp_path) as b:
        seen, happened_s = run(
            read_while(b.options(), b.files, lambda: HURTS[hurt](b), before_s=BEFORE_S, after_s=AFTER_S),
            watchdog_s=120,
        )
        b.cluster.resume(VICTIM)
        b.break_victim(Faults())
    assert seen.is_right()
    check_avoided(seen, happened_s)


def check_avoided(seen: Seen, happened_s: float) -> None:
    """Seconds after it happened nine of ten reads are as quick as the workers left can be; the odd one is a trial."""
    late = seen.between(happened_s + AVOIDED_AFTER_S, happened_s + AFTER_S)
    before = seen.between(happened_s - BEFORE_S, happened_s)
    assert late, "nothing was read any more"
    for share in (0.5, 0.9):
        assert at(late, share) < max(1.0, 4 * at(before, share)), share


def at(ordered: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return ordered[int(share * (len(ordered) - 1))]


# -- a worker in a network namespace of its own


def ip(*args: str) -> None:
    """The command of that name."""
    subprocess.run(["ip", *args], check=True, capture_output=True)


@dataclass(frozen=True)
class Namespace:
    """A network namespace, joined to ours by a link; ``ours`` and ``theirs`` are the addresses of its ends."""

    name: str
    link: str
    ours: str
    theirs: str

    def cut(self) -> None:
        """From here on packets vanish, both ways."""
        ip("-n", self.name, "link", "set", self.link, "down")

    def join(self) -> None:
        """They pass again."""
        ip("-n", self.name, "link", "set", self.link, "up")


@contextmanager
def namespace() -> Iterator[Namespace]:
    """Made, and removed with all that is in it."""
    tag, number = secrets.token_hex(3), random.randrange(1, 64) * 4
    made = Namespace(f"forebay-{tag}", f"fbi{tag}", f"10.213.77.{number + 1}", f"10.213.77.{number + 2}")
    outer = f"fbo{tag}"
    ip("netns", "add", made.name)
    try:
        ip("link", "add", outer, "type", "veth", "peer", "name", made.link, "netns", made.name)
        ip("address", "add", f"{made.ours}/30", "dev", outer)
        ip("link", "set", outer, "up")
        ip("-n", made.name, "address", "add", f"{made.theirs}/30", "dev", made.link)
        ip("-n", made.name, "link", "set", "lo", "up")
        made.join()
        yield made
    finally:
        ip("link", "delete", outer)  # and the other end with it
        ip("netns", "delete", made.name)


@contextmanager
def worker_in(space: Namespace, cluster: Cluster, folder: Path, port: int = 17_071) -> Iterator[str]:
    """One more worker of the cluster, inside; its member id."""
    member = "worker-inside"
    tier = memory_folder() / f"forebay-test-{secrets.token_hex(4)}"
    registry = f"http://{space.ours}:{cluster.local.children['master'].spec.port}"
    flags = ["--registry", registry, "--cluster-key-file", str(cluster.local.places.key_file), "--insecure"]
    flags += ["--host", space.theirs, "--port", str(port), "--member-id", member]
    flags += ["--ufs-roots", f"file://{folder / 'data'}", "--tier-dirs", f"MEM:{tier}:{256 * MIB}"]
    command = ["ip", "netns", "exec", space.name, sys.executable, "-P", "-m", "forebay_worker", *flags]
    with (folder / "inside.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        eventually(lambda: b'"ready"' in (folder / "inside.log").read_bytes(), timeout_s=60.0, what="the worker inside")
        yield member
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in sorted(tier.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        tier.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace")
def test_a_worker_that_is_cut_off_is_avoided_and_read_from_again_when_it_is_back(tmp_path: Path) -> None:
    files = write(tmp_path / "data")
    with namespace() as space:
        outside = ("--host", "0.0.0.0", "--insecure", "--advertise", space.ours)  # ours and loopback
        extra = {"master": ("--block-size", str(BLOCK), *outside), "worker": outside}
        with (
            Cluster.of_folder(tmp_path / "data", workers=2, extra=extra) as cluster,
            worker_in(space, cluster, tmp_path) as member,
        ):
            options = cluster.client_options(short_circuit_dirs=(), readahead_bytes=0)
            seen, happened_s = run(
                read_while(options, files, space.cut, before_s=BEFORE_S, after_s=AFTER_S), watchdog_s=120
            )
            assert seen.is_right()
            check_avoided(seen, happened_s)
            space.join()
            eventually(lambda: _state(cluster, member) == "live", timeout_s=40.0, what="the worker's return")
            seen, _ = run(read_while(options, files, lambda: None, before_s=1.0, after_s=1.0), watchdog_s=60)
            assert seen.is_right()


def _state(cluster: Cluster, member: str) -> str:
    members = orjson.loads(cluster.http("master", "/v1/cluster"))["members"]
    return next((m["state"] for m in members if m["member_id"] == member), "out")


# -- its name


def test_a_killed_worker_that_starts_again_on_another_port_is_back_at_once(tmp_path: Path) -> None:
    files = write(tmp_path / "data")
    with Cluster.of_folder(tmp_path / "data", workers=1) as cluster:
        child = cluster.local.children[VICTIM]
        cluster.kill(VICTIM)
        args = list(child.spec.args)
        other = int(args[args.index("--port") + 1]) + 1
        args[args.index("--port") + 1] = str(other)
        child.spec = replace(child.spec, args=tuple(args), port=other)
        # when: it starts while the lease of the killed one (10 s) still lives
        child.start()
        eventually(child.is_ready, timeout_s=60.0, what="the worker's readiness")
        # then: the registry had it at its first word
        assert "announcement_waits" not in cluster.log(VICTIM)
        seen, _ = run(
            read_while(cluster.client_options(short_circuit_dirs=()), files, lambda: None, before_s=0.5, after_s=0.5),
            watchdog_s=60,
        )
        assert seen.is_right()
        assert len(seen.reads) * READ_BYTES > 0
