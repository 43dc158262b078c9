"""A mount that outlives its gateway: killed under readers, at named points, replaced on purpose, with its keeper."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster, eventually
from tests.crash import acts
from tests.crash.kit import TIMEOUT_S, Kept, children_of, is_mounted, kept, result_of, start_reader
from tests.unprivileged import open_up

pytestmark = [pytest.mark.slow, pytest.mark.fuse, pytest.mark.timeout(300)]
MIB = 1 << 20
BLOCK_BYTES = 4 * MIB
FLAGS = {"master": ("--block-size", str(BLOCK_BYTES))}
PAUSE_MAX_S = 15.0
"""On a machine that is busy with other tests; the bench judges the pause."""

MANY = 1200
KILLS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of one block and of several, and a directory whose listing takes several requests."""
    source, rng = tmp_path_factory.mktemp("crash") / "source", random.Random(11)
    (source / "many").mkdir(parents=True)
    for number in range(4):
        (source / f"file-{number}").write_bytes(rng.randbytes((3 if number % 2 else 9) * MIB + 17))
    for number in range(MANY):
        (source / "many" / f"a-name-that-is-long-enough-to-fill-a-page-{number:05d}").touch()
    return source


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    """Without a mount: the tests start their own gateways."""
    with Cluster.of_folder(folder, extra=FLAGS) as cluster:
        yield cluster


def expected(folder: Path) -> dict[str, str]:
    """SHA-256 of the source's files."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def kill(found: Kept, number: int) -> None:
    """``kill -9``, waited for."""
    found.processes[number].kill()
    found.processes[number].wait(TIMEOUT_S)


# -- under readers


@pytest.mark.parametrize("flags", [(), ("--no-passthrough",), ("--no-passthrough", "--no-resend")], ids=" ".join)
@pytest.mark.parametrize("short_circuit", [True, False])
def test_readers_of_a_gateway_that_is_killed_again_and_again_notice_a_pause_and_nothing_else(
    folder: Path, tmp_path: Path, flags: tuple[str, ...], short_circuit: bool
) -> None:
    extra = {**FLAGS, "gateway": flags}
    with Cluster.of_folder(folder, mounts=1, extra=extra, short_circuit=short_circuit, keeper=True) as cluster:
        # given four readers that check what they read
        guard = cluster.local.children["gateway"].pid
        assert guard is not None
        stop = tmp_path / "stop"
        readers = [start_reader(cluster.mount, stop, expected(folder), first) for first in range(4)]
        # when the gateway is killed, by the guard started again, killed, …
        killed = set[int]()
        for _ in range(KILLS):
            time.sleep(1.5)  # it is to serve for a while
            (gateway,) = children_of(guard)
            os.kill(gateway, signal.SIGKILL)
            killed.add(gateway)
            eventually(lambda: bool(set(children_of(guard)) - killed), what="a new gateway", timeout_s=TIMEOUT_S)
        stop.touch()
        # then no reader has an error or a wrong byte, or waited for long
        for reader in readers:
            found = result_of(reader)
            assert found["errors"] == []
            assert found["wrong"] == 0
            assert found["files"] > 0
            assert found["pause_s"] < PAUSE_MAX_S


def test_the_guard_may_be_killed_as_well(folder: Path) -> None:
    with Cluster.of_folder(folder, mounts=1, extra=FLAGS, keeper=True) as cluster:
        with (cluster.mount / "file-0").open("rb", buffering=0) as file:
            head = file.read(MIB)
            cluster.kill("gateway")
            cluster.restart("gateway")
            rest = file.read(20 * MIB)
            while piece := file.read(MIB):
                rest += piece
        assert hashlib.sha256(head + rest).hexdigest() == expected(folder)["file-0"]


# -- at named points


@pytest.mark.parametrize("resend", ["--resend", "--no-resend"])
@pytest.mark.parametrize("point", ["came", "written", "answered"])
@pytest.mark.parametrize("op", list(acts.ACTS))
def test_a_gateway_that_dies_at_any_point_of_a_request_costs_nothing(
    folder: Path, cluster: Cluster, tmp_path: Path, op: str, point: str, resend: str
) -> None:
    mark = tmp_path / "mark"
    mortal = ("-m", "tests.crash.mortal", point, op, str(mark))
    with kept(tmp_path, cluster.registry, resend, "--attr-timeout", "0", "--no-passthrough") as found:
        # given a gateway that dies at this point, and a program that runs into it
        doomed = found.start_gateway(program=mortal)
        found.wait_ready()
        mark.touch()
        command = [sys.executable, "-S", acts.__file__, op, str(found.mount)]
        program = subprocess.Popen(command, stdout=subprocess.PIPE)
        eventually(lambda: found.processes[doomed].poll() == -signal.SIGKILL, what="its end", timeout_s=TIMEOUT_S)
        # when another takes over
        found.start_gateway()
        found.wait_ready(2)
        said, _ = program.communicate(timeout=TIMEOUT_S)
        # then the program never knew
        assert said.decode() == str(acts.ACTS[op](folder))
        # and the kernel and the gateway agree on what is looked up: all of it can be given back
        assert acts.list_names(found.mount) == acts.list_names(folder)
        eventually(lambda: forgotten(found), what="the kernel to give everything back", timeout_s=TIMEOUT_S)


def forgotten(found: Kept) -> bool:
    """Whether only the root is left, and nothing is open."""
    acts.drop_names()
    metrics = found.metrics()
    return metrics["forebay_fuse_inodes"] == 1 and metrics["forebay_fuse_handles"] == 0


def test_an_open_directory_goes_on_where_it_was(folder: Path, cluster: Cluster, tmp_path: Path) -> None:
    with kept(tmp_path, cluster.registry) as found:
        first = found.start_gateway()
        found.wait_ready()
        with os.scandir(found.mount / "many") as entries:
            names = [next(entries).name for _ in range(10)]
            kill(found, first)
            found.start_gateway()
            names += [entry.name for entry in entries]
        assert sorted(names) == acts.list_names(folder)


# -- upgrades


def test_an_upgrade_waits_until_the_old_one_ends_and_takes_over_at_once(
    folder: Path, cluster: Cluster, tmp_path: Path
) -> None:
    with kept(tmp_path, cluster.registry, "--on-stop", "leave") as found:
        # given a gateway, and the next one that is loaded and waits
        old = found.start_gateway()
        found.wait_ready()
        fd = os.open(found.mount / "file-0", os.O_RDONLY)
        data = os.pread(fd, MIB, 0)
        new = found.start_gateway()
        eventually(lambda: found.log.count('"event": "waits"') == 2, what="the new one to wait", timeout_s=TIMEOUT_S)
        # when the old one is told to end
        began = time.monotonic()
        found.processes[old].terminate()
        data += os.pread(fd, 20 * MIB, MIB)
        # then the file reads on, the old one has ended well, and the mount is the new one's
        assert hashlib.sha256(data).hexdigest() == expected(folder)["file-0"]
        assert time.monotonic() - began < PAUSE_MAX_S
        assert found.processes[old].wait(TIMEOUT_S) == 0
        assert found.processes[new].poll() is None
        assert "mount_left_to_keeper" in found.log
        os.close(fd)
        # and without any gateway it is still there
        found.processes[new].terminate()
        assert found.processes[new].wait(TIMEOUT_S) == 0
        assert is_mounted(found.mount)


# -- the end


def test_a_stop_unmounts_and_ends_the_keeper(cluster: Cluster, tmp_path: Path) -> None:
    with kept(tmp_path, cluster.registry) as found:
        gateway = found.start_gateway()
        found.wait_ready()
        found.processes[gateway].terminate()
        assert found.processes[gateway].wait(TIMEOUT_S) == 0
        assert found.processes[0].wait(TIMEOUT_S) == 0
        assert not is_mounted(found.mount)
        assert not found.socket.exists()


def test_a_stop_with_open_files_does_as_umount_does_after_a_takeover_too(cluster: Cluster, tmp_path: Path) -> None:
    with kept(tmp_path, cluster.registry, "--busy-timeout", "60") as found:
        kill(found, found.start_and_wait())
        second = found.start_gateway()
        found.wait_ready(2)
        fd = os.open(found.mount / "file-0", os.O_RDONLY)
        found.processes[second].terminate()
        eventually(lambda: "mount_is_busy" in found.log, what="a word about the open file")
        assert len(os.pread(fd, MIB, 0)) == MIB
        os.close(fd)
        assert found.processes[second].wait(TIMEOUT_S) == 0
        assert found.processes[0].wait(TIMEOUT_S) == 0


def test_an_unmount_from_outside_ends_gateway_and_keeper(cluster: Cluster, tmp_path: Path) -> None:
    with kept(tmp_path, cluster.registry) as found:
        gateway = found.start_and_wait()
        subprocess.run(["umount", found.mount], check=True, timeout=TIMEOUT_S)
        assert found.processes[gateway].wait(TIMEOUT_S) == 0
        assert found.processes[0].wait(TIMEOUT_S) == 0


# -- the keeper dies


def test_a_keeper_that_dies_alone_is_not_noticed_and_its_successor_protects_again(
    folder: Path, cluster: Cluster, tmp_path: Path
) -> None:
    with kept(tmp_path, cluster.registry) as found:
        gateway = found.start_and_wait()
        fd = os.open(found.mount / "file-0", os.O_RDONLY)
        kill(found, 0)
        data = os.pread(fd, MIB, 0)
        found.socket.unlink()
        found.start_keeper()
        eventually(lambda: "keeper_back" in found.log, what="the gateway to come back")
        kill(found, gateway)
        found.start_gateway()
        data += os.pread(fd, 20 * MIB, MIB)
        os.close(fd)
        assert hashlib.sha256(data).hexdigest() == expected(folder)["file-0"]


APART = ("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc")
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


def test_a_keeper_apart_and_without_rights_as_in_its_container_keeps_the_mount(
    folder: Path, cluster: Cluster, tmp_path: Path
) -> None:
    # given a keeper in namespaces of its own, which shares the socket's folder and nothing else
    with kept(tmp_path, cluster.registry, around_keeper=(*APART, *WITHOUT_RIGHTS)) as found:
        (keeper,) = children_of(found.processes[0].pid)
        assert "CapEff:\t0000000000000000" in Path(f"/proc/{keeper}/status").read_text()
        for name in ("mnt", "pid", "net"):
            assert os.readlink(f"/proc/{keeper}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
        with_open = found.start_and_wait()
        with (found.mount / "file-0").open("rb", buffering=0) as file:
            head = file.read(MIB)
            # when the gateway is killed and another comes
            kill(found, with_open)
            last = found.start_gateway()
            found.wait_ready(2)
            # then the open file goes on
            rest = b"".join(iter(lambda: file.read(MIB), b""))
        assert hashlib.sha256(head + rest).hexdigest() == expected(folder)["file-0"]
        # and with the mount it ends
        found.processes[last].terminate()
        assert found.processes[0].wait(TIMEOUT_S) == 0


def test_without_keeper_and_gateway_the_mount_is_dead_and_a_restart_makes_a_new_one(
    folder: Path, cluster: Cluster, tmp_path: Path
) -> None:
    with kept(tmp_path, cluster.registry) as found:
        gateway = found.start_and_wait()
        kill(found, 0)
        kill(found, gateway)
        with pytest.raises(OSError, check=lambda e: e.errno == errno.ENOTCONN):
            os.statvfs(found.mount)
        found.start_keeper()  # over the socket that the dead one left
        found.start_gateway()
        found.wait_ready(2)
        assert "stale_mount_detached" in found.log
        assert (found.mount / "file-1").read_bytes() == (folder / "file-1").read_bytes()


def test_a_keeper_that_ends_ends_a_mount_that_nobody_serves(cluster: Cluster, tmp_path: Path) -> None:
    with kept(tmp_path, cluster.registry) as found:
        kill(found, found.start_and_wait())
        assert is_mounted(found.mount)
        found.processes[0].terminate()
        assert found.processes[0].wait(TIMEOUT_S) == 0
        with pytest.raises(OSError, check=lambda e: e.errno == errno.ENOTCONN):
            os.statvfs(found.mount)


# -- a device that somebody else has opened and mounted


@pytest.mark.parametrize("with_keeper", [True, False])
def test_a_gateway_serves_a_device_that_it_is_given(
    folder: Path, cluster: Cluster, tmp_path: Path, with_keeper: bool
) -> None:
    with kept(tmp_path, cluster.registry) as found:
        device = mount_device(found.mount)
        try:
            gateway = found.start_gateway("--fd", str(device), keeper=with_keeper, pass_fds=[device])
            found.wait_ready()
        finally:
            os.close(device)
        assert (found.mount / "file-1").read_bytes() == (folder / "file-1").read_bytes()
        if with_keeper:  # which has it when the gateway, and with it the given one, is gone
            kill(found, gateway)
            gateway = found.start_gateway()
            assert (found.mount / "file-2").read_bytes() == (folder / "file-2").read_bytes()
            found.wait_ready(2)
        found.processes[gateway].terminate()
        assert found.processes[gateway].wait(TIMEOUT_S) == 0


def mount_device(directory: Path) -> int:
    """As a privileged helper would."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"forebay", os.fsencode(directory), b"fuse.forebay", 7, options) == 0, ctypes.get_errno()
    return device


UNPRIVILEGED = """
set -e
mknod "$1/fuse" c 10 229; chmod 666 "$1/fuse"
mount --bind "$1/fuse" /dev/fuse      # in a mount namespace of our own: the machine's device keeps its mode
mkdir "$1/own"; chown 65534 "$1/mount" "$1/own"
user() { exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
user "$2" -m forebay_fuse.keeper "$1/own/keeper.sock" & keeper=$!
user "$2" -m forebay_fuse "$1/mount" --registry "$3" --no-allow-other --keeper "$1/own/keeper.sock" & guard=$!
for _ in $(seq 600); do grep -q " $1/mount " /proc/self/mounts && break; kill -0 $guard; sleep 0.1; done
(user sh -c 'exec <"$1"; read -r head; kill -9 $2; echo "$head"; cat' sh "$1/mount/file" "$(pgrep -P $guard)")
kill $guard; wait $guard; wait $keeper
grep " $1/mount " /proc/self/mounts && exit 9
test ! -e "$1/own/keeper.sock"
"""


def test_a_user_without_rights_has_a_mount_that_outlives_its_gateway(tmp_path: Path) -> None:
    # given a cluster, and a folder that a user without rights reaches
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("a line\n" + "and many more\n" * 100_000)
    open_up(tmp_path)
    (tmp_path / "mount").mkdir()
    with Cluster.of_folder(tmp_path / "source") as cluster:
        # when that user mounts with a keeper, and the gateway is killed while it reads
        command = ["unshare", "-m", "--propagation", "private", "bash", "-c", UNPRIVILEGED, "bash"]
        done = subprocess.run(
            [*command, tmp_path, sys.executable, cluster.registry], capture_output=True, timeout=120, check=False
        )
    # then it reads to the end, and nothing is left
    assert done.returncode == 0, done.stderr
    assert b"took_over" in done.stderr
    assert done.stdout == (tmp_path / "source" / "file").read_bytes()


# -- is it alive


def probe(mount: Path, deadline: str = "2") -> tuple[int, str]:
    """``forebay-fuse --probe``: exit code and words."""
    command = [sys.executable, "-m", "forebay_fuse", "--probe", str(mount), "--deadline", deadline]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stderr


def test_a_probe_says_within_its_deadline_whether_a_mount_is_alive(cluster: Cluster, tmp_path: Path) -> None:
    with kept(tmp_path, cluster.registry) as found:
        assert "nothing is mounted" in probe(found.mount)[1]
        gateway = found.start_and_wait()
        assert probe(found.mount, "10") == (0, "")
        found.processes[gateway].send_signal(signal.SIGSTOP)
        code, said = probe(found.mount, "0.3")
        found.processes[gateway].send_signal(signal.SIGCONT)
        assert code == 1
        assert "no answer" in said
