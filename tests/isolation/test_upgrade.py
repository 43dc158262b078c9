"""A rolling upgrade across a wire version, with two real builds: a reader of a mount notices nothing, there and back.

The one build is this checkout's. The other is the same source with the next wire version and one more field in every
record, so that every message and every stored record of the one is strange to the other.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from forebay.cli.children import Child, ChildSpec
from forebay.contracts import WIRE_VERSION
from forebay.testing.cluster import Cluster, eventually
from forebay.testing.tools import free_ports
from forebay.testing.zookeeper import ZooKeeperServer
from tests.crash.kit import result_of, start_reader

from .conftest import MEMBERS, ROOT, build

pytestmark = [pytest.mark.slow, pytest.mark.fuse, pytest.mark.zookeeper, pytest.mark.timeout(300)]
MIB = 1 << 20
SERVICES = ("master-2", "master", "worker-0", "worker-1", "gateway")
NEXT = WIRE_VERSION + 1
STOP_TIMEOUT_S = 60.0
SEEN_TIMEOUT_S = 60.0
CODEC = Path("shared/src/forebay/contracts/codec.py")
RECORD = re.compile(r'^(class Record\(.*?\n    """.*?"""\n)', re.DOTALL | re.MULTILINE)
"""The base of all records, to the end of its docstring."""


def unpacked(wheels: Iterable[Path], folder: Path) -> Path:
    """One folder to import all of them from."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


def next_tree(folder: Path) -> Path:
    """This checkout's sources, one wire version on, with a field more in the base of all records."""
    for member in MEMBERS.values():
        inner = folder / member.relative_to(ROOT)
        shutil.copytree(member, inner, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "dist"))
    text = (folder / CODEC).read_text()
    text, raised = re.subn(rf"^WIRE_VERSION = {WIRE_VERSION}$", f"WIRE_VERSION = {NEXT}", text, flags=re.MULTILINE)
    text, grown = RECORD.subn(r'\1\n    from_next: str = "new"\n', text)
    assert (raised, grown) == (1, 1)
    (folder / CODEC).write_text(text)
    return folder


@pytest.fixture(scope="module")
def builds(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Where to import each wire version's build from."""
    folder = tmp_path_factory.mktemp("builds")
    later = build(next_tree(folder / "tree"), folder / "wheels")
    return {
        WIRE_VERSION: unpacked(wheels.values(), folder / "now"),
        NEXT: unpacked(later.values(), folder / "next"),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of one block and of several."""
    source, rng = tmp_path / "source", random.Random(12)
    source.mkdir()
    for number in range(6):
        (source / f"file-{number}").write_bytes(rng.randbytes((1 + 2 * number) * MIB + number))
    return source


def with_second_master(cluster: Cluster, env: dict[str, str]) -> None:
    """Starts another master of the cluster."""
    first, places, (port,) = cluster.local.children["master"].spec, cluster.local.places, free_ports(1)
    state = places.folder / "master-2"
    state.mkdir()
    own = {"--port": str(port), "--member-id": "master-2", "--state-dir": str(state)}
    args = tuple(own.get(flag, arg) for flag, arg in zip(("", *first.args), first.args, strict=False))
    start(cluster, replace(first, name="master-2", args=args, port=port), env)


def start(cluster: Cluster, spec: ChildSpec, env: dict[str, str]) -> None:
    cluster.local.children[spec.name] = Child(spec, logs=cluster.local.places.logs, env={**os.environ, **env})
    cluster.restart(spec.name)


@pytest.fixture
def cluster(builds: dict[int, Path], folder: Path, zookeeper: ZooKeeperServer) -> Iterator[Cluster]:
    """Two masters on ZooKeeper, two workers whose bytes come by HTTP/2, and a mount that outlives its gateway."""
    env = {"PYTHONPATH": str(builds[WIRE_VERSION])}
    leaving = ("--on-stop", "leave", "--entry-timeout", "1", "--attr-timeout", "1")
    extra = {"master": ("--block-size", str(4 * MIB), "--max-age-s", "1"), "gateway": leaving}
    registry = f"zookeeper://{zookeeper.address}/upgrade-{os.getpid()}"
    spec = {"registry": registry, "short_circuit": False, "keeper": True, "extra": extra, "environ": env}
    with Cluster.of_folder(folder, mounts=1, workers=2, **spec) as cluster:
        with_second_master(cluster, env)
        yield cluster


def replaced(cluster: Cluster, name: str, build: Path) -> None:
    """Stops a service as a rolling upgrade does, and starts that of another build in its place."""
    child = cluster.local.children[name]
    assert child.stop(STOP_TIMEOUT_S), f"{name} had to be killed"
    start(cluster, child.spec, {"PYTHONPATH": str(build)})


def versions(cluster: Cluster) -> dict[str, int]:
    """What each service says that it speaks."""
    return {name: cluster.status(name)["wire_version"] for name in SERVICES}


def live(cluster: Cluster, name: str) -> dict[str, int]:
    """The wire version of each live member of the map that a master serves."""
    members = orjson.loads(cluster.http(name, "/v1/cluster"))["members"]
    return {member["member_id"]: member["wire_version"] for member in members if member["state"] == "live"}


def post(cluster: Cluster, name: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """What a person with curl is answered to a lookup."""
    connection = http.client.HTTPConnection("127.0.0.1", cluster.local.children[name].spec.port, timeout=10)
    try:
        connection.request("POST", "/v1/lookup", body, {name.replace("_", "-"): text for name, text in headers.items()})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def wait_for_members(cluster: Cluster, wanted: dict[str, int]) -> None:
    """Until both masters show these members, live, with these versions."""
    eventually(
        lambda: all(live(cluster, master) == wanted for master in ("master", "master-2")),
        what=f"{wanted} in the map",
        timeout_s=SEEN_TIMEOUT_S,
    )


def test_a_cluster_is_upgraded_process_by_process_and_back_while_a_reader_notices_nothing(
    cluster: Cluster, builds: dict[int, Path], folder: Path, tmp_path: Path
) -> None:
    speaks = dict.fromkeys(SERVICES, WIRE_VERSION)
    assert versions(cluster) == speaks
    wanted = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    stop = tmp_path / "stop"
    reader = start_reader(cluster.mount, stop, wanted, 0)
    try:
        # when one process after the other is replaced, and then a master and a worker are taken back
        steps = [*((name, NEXT) for name in SERVICES), ("master", WIRE_VERSION), ("worker-1", WIRE_VERSION)]
        for name, version in steps:
            replaced(cluster, name, builds[version])
            speaks[name] = version
            assert versions(cluster) == speaks
            wait_for_members(cluster, {member: v for member, v in speaks.items() if member != "gateway"})
            # then a file that is new meanwhile is read through the mount
            fresh = random.Random(f"{name}{version}").randbytes(MIB + 7)
            (folder / f"new-{name}-{version}").write_bytes(fresh)
            assert (cluster.mount / f"new-{name}-{version}").read_bytes() == fresh
    finally:
        stop.touch()
    # and the reader had every byte right and no error
    found = result_of(reader)
    assert found["files"] > len(wanted), found
    assert not found["wrong"], found
    assert not found["errors"], found
    # and the older builds were told of fields that they do not know, and said so
    status, said = post(cluster, "master", b'{"path": "/file-0", "zone": 1}', forebay_wire=str(NEXT))
    assert status == 200, said
    for name in ("gateway", "master"):
        assert "newer_fields_left_out" in cluster.local.children[name].log.read_text(), cluster.log(name)
    # but a person's unknown field is refused by either build, and so is a version further away by name
    for name, version in (("master", WIRE_VERSION), ("master-2", NEXT)):
        status, said = post(cluster, name, b'{"path": "/file-0", "dept": 1}')
        assert (status, b"dept" in said) == (400, True), said
        status, said = post(cluster, name, b'{"path": "/file-0"}', forebay_wire=str(version + 2))
        assert status == 400
        assert f"you speak wire version {version + 2}, this is {version}" in said.decode()
