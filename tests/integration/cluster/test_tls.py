"""A cluster of real processes under mutual TLS: everything works, everything is checked, certificates may change."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from forebay.client import ClientOptions, SyncClient
from forebay.contracts import AnnounceRequest, Member, Record
from forebay.contracts.tickets import parse_key_file
from forebay.discovery.doors import HttpDoor
from forebay.errors import ForebayError, PermissionDenied
from forebay.runtime import Deadline
from forebay.runtime.tls import TlsFiles
from forebay.testing.certificates import Authority, write_role_files
from forebay.testing.cluster import Cluster
from forebay.transport import HttpClient

pytestmark = [pytest.mark.slow, pytest.mark.fuse]
BODY = bytes(range(256)) * 40_000


def files_of(folder: Path, role: str) -> TlsFiles:
    own = folder / f"{role}.pem"
    return TlsFiles(cert=own, key=own, ca=folder / "ca.pem")


def options(cluster: Cluster, folder: Path, role: str) -> ClientOptions:
    own = folder / f"{role}.pem"
    return ClientOptions(registry=cluster.registry, client_id=role, tls_ca=folder / "ca.pem", tls_cert=own, tls_key=own)


def announce_as(cluster: Cluster, folder: Path, role: str) -> Record:
    """A forged worker, by somebody who has the cluster key and the certificate of ``role``."""
    key_file = cluster.local.places.key_file
    keys = parse_key_file(key_file.read_text(), setting="cluster_key_file")
    forged = Member(member_id="forged", role="worker", tcp="127.0.0.1:1", capacity_weight=0.0, version="0")

    async def main() -> Record:
        client = HttpClient(None, tls=files_of(folder, role))
        try:
            door = HttpDoor(client, [cluster.local.address("master")], cluster_id="forebay", keys=keys)
            return await door.announce(AnnounceRequest(member=forged), Deadline.after(10))
        finally:
            await client.close()

    return asyncio.run(main())


def cat(cluster: Cluster, path: str, *flags: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "forebay.cli", *map(str, flags), "cat", path, "--registry", cluster.registry]
    return subprocess.run(command, capture_output=True, timeout=60, check=False)


def test_a_cluster_under_mutual_tls(tmp_path: Path) -> None:
    # given
    source, certificates, foreign = (tmp_path / name for name in ("source", "certificates", "foreign"))
    for folder in (source, certificates, foreign):
        folder.mkdir()
    for number in range(3):
        (source / f"file-{number}").write_bytes(BODY)
    authority = Authority()
    write_role_files(certificates, authority)
    with Cluster.of_folder(source, mounts=1, workers=2, short_circuit=False, tls_dir=certificates) as cluster:
        # then the mount reads through master and workers
        assert (cluster.mount / "file-0").read_bytes() == BODY
        # a reader without a certificate, or with somebody else's, gets nothing
        own = certificates / "client.pem"
        ca = ("--tls-ca", certificates / "ca.pem")
        assert cat(cluster, "/file-0", *ca, "--tls-cert", own, "--tls-key", own).stdout == BODY
        write_role_files(foreign, Authority(), trusted=authority.pem)
        unknown = replace(options(cluster, certificates, "client"), tls_cert=None, tls_key=None)
        for stranger in (unknown, options(cluster, foreign, "client")):
            with pytest.raises(ForebayError), SyncClient(replace(stranger, start_deadline_s=1.0)):
                pass
        # a gateway's certificate makes nobody a worker, even with the cluster key
        with pytest.raises(PermissionDenied, match="worker"):
            announce_as(cluster, certificates, "gateway")
        announce_as(cluster, certificates, "worker")
        # when every certificate is replaced, what runs goes on and what starts anew finds its peers
        write_role_files(certificates, authority)
        assert (cluster.mount / "file-1").read_bytes() == BODY
        cluster.kill("worker-1")
        cluster.restart("worker-1")
        assert (cluster.mount / "file-2").read_bytes() == BODY
        with SyncClient(options(cluster, certificates, "client")) as client, client.open("/file-1") as reader:
            assert reader.read(0, len(BODY)) == BODY
