"""Certificate files that change under a running process, and the roles that certificates name."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import ConfigError, PeerMisbehaved
from forebay.runtime.tls import ROLES, TlsFiles, role_uri, roles_named, tls_files
from forebay.testing.certificates import Authority, replace, write_role_files


def files_of(folder: Path, role: str, cluster_id: str = "forebay") -> TlsFiles:
    own = folder / f"{role}.pem"
    return TlsFiles(cert=own, key=own, ca=folder / "ca.pem", cluster_id=cluster_id)


def handshake(client: TlsFiles, server: TlsFiles) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a handshake in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    calling, listening = client.client(["h2"]), server.server(["h2", "http/1.1"])
    assert calling is not None
    assert listening is not None
    near = calling.wrap_bio(down, up, server_hostname="localhost")
    far = listening.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert far.selected_alpn_protocol() == "h2"
    return near, far


def serial(certificate: Any) -> str:
    assert certificate
    return str(certificate["serialNumber"])


def test_a_handshake_uses_the_files_as_they_are(tmp_path: Path) -> None:
    # given a listener and a client that have spoken
    authority = Authority()
    write_role_files(tmp_path, authority)
    server, client = files_of(tmp_path, "worker"), files_of(tmp_path, "gateway")
    near, far = handshake(client, server)
    before = serial(near.getpeercert()), serial(far.getpeercert())
    # when both get new certificates
    write_role_files(tmp_path, authority)
    near, far = handshake(client, server)
    # then new connections show them
    assert serial(near.getpeercert()) != before[0]
    assert serial(far.getpeercert()) != before[1]
    assert server.generation == client.generation == 2


def test_an_authority_that_was_taken_away_is_believed_no_more(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    write_role_files(tmp_path, old)
    (tmp_path / "theirs").mkdir()
    write_role_files(tmp_path / "theirs", old)
    server, client = files_of(tmp_path, "worker"), files_of(tmp_path / "theirs", "gateway")
    handshake(client, server)
    # when the listener's side moves to a new authority, and the client trusts both
    write_role_files(tmp_path, new)
    replace(tmp_path / "theirs" / "ca.pem", old.pem + new.pem)
    # then the client's old certificate is worth nothing there
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server)


def test_files_that_do_not_fit_together_leave_the_last_good_ones(tmp_path: Path) -> None:
    authority = Authority()
    write_role_files(tmp_path, authority)
    key = tmp_path / "own.key"
    key.write_bytes((tmp_path / "worker.pem").read_bytes())
    server = TlsFiles(cert=tmp_path / "worker.pem", key=key, ca=tmp_path / "ca.pem")
    client = files_of(tmp_path, "gateway")
    before = serial(handshake(client, server)[0].getpeercert())
    # when the certificate comes before its key
    replace(tmp_path / "worker.pem", authority.issue("worker"))
    assert serial(handshake(client, server)[0].getpeercert()) == before
    assert server.generation == 1
    # then the key completes it
    replace(key, (tmp_path / "worker.pem").read_bytes())
    assert serial(handshake(client, server)[0].getpeercert()) != before
    # and a file that vanishes takes nothing away
    (tmp_path / "worker.pem").unlink()
    handshake(client, server)


def test_no_session_is_resumed(tmp_path: Path) -> None:
    write_role_files(tmp_path, Authority())
    server, client = files_of(tmp_path, "worker"), files_of(tmp_path, "gateway")
    near, _ = handshake(client, server)
    assert near.session is None or not near.session.has_ticket


@pytest.mark.parametrize("role", ROLES)
def test_a_certificate_is_what_it_names(tmp_path: Path, role: str) -> None:
    write_role_files(tmp_path, Authority())
    server = files_of(tmp_path, "worker")
    _, far = handshake(files_of(tmp_path, role), server)
    assert server.roles(far.getpeercert()) == {role}


def test_a_certificate_without_a_role_is_a_clients(tmp_path: Path) -> None:
    write_role_files(tmp_path, Authority())
    server = files_of(tmp_path, "worker")
    _, far = handshake(files_of(tmp_path, "nobody"), server)
    assert server.roles(far.getpeercert()) == {"client"}


def test_the_role_in_another_cluster_counts_for_nothing() -> None:
    certificate = {"subjectAltName": (("DNS", "forebay://a/admin"), ("URI", "forebay://b/admin"), ("URI", "x"))}
    assert roles_named(certificate, "a") == frozenset()
    assert roles_named(certificate, "b") == {"admin"}
    assert roles_named({}, "b") == frozenset()


def test_the_name_of_a_cluster_is_quoted_in_its_role_uris() -> None:
    assert role_uri("a/worker ü", "admin") == "forebay://a%2Fworker%20%C3%BC/admin"


@pytest.mark.parametrize("role", ["gateway", "client", "admin"])
def test_who_answers_with_a_certificate_of_another_trade_is_refused(tmp_path: Path, role: str) -> None:
    write_role_files(tmp_path, Authority())
    client = files_of(tmp_path, "gateway")
    near, _ = handshake(client, files_of(tmp_path, role))
    with pytest.raises(PeerMisbehaved, match=role):
        client.check_server("localhost:1", near.getpeercert())


@pytest.mark.parametrize("role", ["master", "worker", "nobody"])
def test_masters_workers_and_certificates_without_a_role_may_answer(tmp_path: Path, role: str) -> None:
    write_role_files(tmp_path, Authority())
    client = files_of(tmp_path, "gateway")
    near, _ = handshake(client, files_of(tmp_path, role))
    client.check_server("localhost:1", near.getpeercert())


def test_only_both_files_make_it_mutual(tmp_path: Path) -> None:
    write_role_files(tmp_path, Authority())
    own, ca = tmp_path / "worker.pem", tmp_path / "ca.pem"
    assert files_of(tmp_path, "worker").is_mutual
    assert not TlsFiles(cert=own, key=own, ca=None).is_mutual
    assert TlsFiles(cert=None, key=None, ca=ca).server(["h2"]) is None
    assert tls_files(cert=None, key=None, ca=None, cluster_id="c") is None


def test_files_that_are_wrong_at_the_start_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tls_ca"):
        TlsFiles(cert=None, key=None, ca=tmp_path / "nothing")
