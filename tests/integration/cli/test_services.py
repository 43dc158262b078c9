"""The services started with what cannot work: one line that names the setting, an exit code, nothing left behind."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster
from forebay.testing.tools import free_ports
from tests.integration.cli.kit import Ended, service

pytestmark = [pytest.mark.slow]
REQUIRED = {"fuse": ("--mountpoint", "/nowhere")}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A cluster key."""
    path = tmp_path / "cluster.key"
    path.write_text("k1 " + "ab" * 32 + "\n")
    path.chmod(0o600)
    return path


def refused(ended: Ended, *words: str) -> None:
    """Ended as a wrong setting does, with one line of explanation."""
    assert ended.code == 2, ended.said
    assert ended.last.startswith("error: "), ended.said
    assert "Traceback" not in ended.said
    for word in words:
        assert word in ended.last


def master(tmp_path: Path, *args: str | Path) -> Ended:
    """A master on any port with a state directory of its own."""
    return service(tmp_path, "master", "--port", "0", "--state-dir", tmp_path / "state", *args)


def worker(tmp_path: Path, tier: str, key_file: Path, *args: str | Path) -> Ended:
    """A worker with one tier directory."""
    return service(tmp_path, "worker", "--cluster-key-file", key_file, "--tier-dirs", tier, *args)


@pytest.mark.parametrize("name", ["master", "worker", "fuse"])
def test_unknown_flags_and_variables_are_refused_with_the_nearest_name(tmp_path: Path, name: str) -> None:
    args = REQUIRED.get(name, ())
    refused(service(tmp_path, name, *args, "--log-levle", "debug"), "--log-levle", "did you mean --log-level?")
    own = f"FOREBAY_{name.upper()}_LOG_LEVEL"
    refused(service(tmp_path, name, *args, env={f"{own}L": "info"}), f"{own}L", f"did you mean {own}?")


def test_variables_of_all_services_are_checked_as_well(tmp_path: Path) -> None:
    refused(service(tmp_path, "worker", env={"FOREBAY_REGISTRI": "x"}), "FOREBAY_REGISTRI", "FOREBAY_REGISTRY?")
    refused(service(tmp_path, "worker", env={"FOREBAY_LOG_LEVEL": "loud"}), "FOREBAY_LOG_LEVEL", "loud")


@pytest.mark.parametrize("name", ["master", "worker", "fuse"])
def test_listening_off_loopback_without_keys_is_refused(tmp_path: Path, key_file: Path, name: str) -> None:
    args = (*REQUIRED.get(name, ()), "--host", "0.0.0.0")
    refused(service(tmp_path, name, *args), "cluster_key_file", "0.0.0.0", "insecure")
    if name == "master":
        refused(service(tmp_path, name, *args, "--cluster-key-file", key_file), "admin_token_file", "insecure")
        short = tmp_path / "token"
        short.write_text("short\n")
        keys = ("--cluster-key-file", key_file, "--admin-token-file", short, "--state-dir", tmp_path / "state")
        refused(service(tmp_path, name, *args, *keys), "admin_token_file", "16")


def test_a_master_names_a_source_that_is_missing_not_allowed_or_unreadable(tmp_path: Path) -> None:
    root = ("--ufs-roots", f"file://{tmp_path}/lake")
    refused(master(tmp_path, *root, "--mount", f"/=file://{tmp_path}/lake/none"), "mount", "/")
    refused(master(tmp_path, *root, "--mount", f"/=file://{tmp_path}/sea"), "mount", "root")
    refused(master(tmp_path, *root, "--mount", "/=nonsense"), "mount", "entry 1", "PATH=URI")
    refused(master(tmp_path, "--ufs-roots", "nonsense"), "ufs_roots")


def test_a_port_that_is_taken_is_named_by_every_service(tmp_path: Path, key_file: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(service(tmp_path, "master", "--port", port, "--state-dir", tmp_path / "state"), "port", port)
        refused(worker(tmp_path, f"SSD:{tmp_path}/tier:64MiB", key_file, "--port", port), "port", port)
        refused(service(tmp_path, "fuse", "--mountpoint", mount, "--port", port), "port", port)
    assert not (tmp_path / "tier").exists()
    assert list(mount.iterdir()) == []


def test_a_tier_directory_that_cannot_be_or_lies_in_the_source_is_named(tmp_path: Path, key_file: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(worker(tmp_path, f"SSD:{tmp_path}/file/tier:64MiB", key_file), "tier_dirs", f"{tmp_path}/file/tier")
    refused(worker(tmp_path, f"SSD:{tmp_path}/file:64MiB", key_file), "tier_dirs", f"{tmp_path}/file")
    source = tmp_path / "source"
    source.mkdir()
    root = ("--ufs-roots", f"file://{source}")
    refused(worker(tmp_path, f"SSD:{source}/tier:64MiB", key_file, *root), "tier_dirs", "overlap", str(source))
    assert list(source.iterdir()) == []
    assert (tmp_path / "file").read_text() == "x"


def test_the_second_worker_on_one_directory_is_told_and_the_first_goes_on(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with Cluster.of_folder(tmp_path / "source") as cluster:
        tier, key = cluster.local.places.tier(0), cluster.local.places.key_file
        ended = worker(tmp_path, f"MEM:{tier}:64MiB", key, "--registry", cluster.registry)
        refused(ended, "tier_dirs", str(tier))
        assert cluster.status("worker-0")["ready"] is True
        assert (tier / "nonce").exists()


@pytest.mark.parametrize(
    ("name", "scheme"),
    # (a master under "http" is the registry)
    [("worker", "http"), ("fuse", "http"), ("master", "zookeeper"), ("worker", "zookeeper"), ("fuse", "zookeeper")],
)
def test_a_registry_that_does_not_answer_is_said_tried_again_and_named_at_the_end(
    tmp_path: Path, key_file: Path, name: str, scheme: str
) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    mount = tmp_path / "mount"
    mount.mkdir()
    own = {
        "master": ("--state-dir", tmp_path / "state", "--port", "0", "--registry-timeout-s", "2"),
        "worker": ("--tier-dirs", f"SSD:{tmp_path}/tier:64MiB", "--registry-timeout-s", "2"),
        "fuse": ("--mountpoint", mount, "--registry-timeout", "2"),
    }[name]
    began = time.monotonic()
    ended = service(tmp_path, name, *own, "--registry", f"{scheme}://{address}", "--cluster-key-file", key_file)
    took = time.monotonic() - began
    assert ended.code == 1, ended.said
    assert took >= 2
    assert ended.last.startswith("error: ")
    assert address in ended.last
    assert "Traceback" not in ended.said
    warned = [line for line in ended.said.splitlines() if '"level": "warning"' in line and address in line]
    assert warned, ended.said
    assert not (tmp_path / "tier").exists()
    assert list(mount.iterdir()) == []
