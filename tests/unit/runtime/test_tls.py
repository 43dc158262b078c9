"""TLS contexts: made from files, refused by the name of the setting."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from forebay.errors import ConfigError
from forebay.runtime.tls import client_context, server_context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    pair = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    pair.private_key_pem.write_to_path(folder / "key.pem")
    pair.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    (folder / "nonsense.pem").write_text("nonsense")
    return {path.stem: path for path in folder.iterdir()}


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> object:
    """What the server learns of the client's certificate in an in-memory handshake."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    client_side = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(4):
        for side in (client_side, server_side):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return server_side.getpeercert()


def test_without_files_there_is_no_tls() -> None:
    assert server_context(cert=None, key=None, ca=None) is None
    assert client_context(cert=None, key=None, ca=None) is None


def test_both_sides_show_certificates_when_both_have_authorities(files: dict[str, Path]) -> None:
    server = server_context(cert=files["cert"], key=files["key"], ca=files["ca"])
    client = client_context(cert=files["cert"], key=files["key"], ca=files["ca"])

    assert server is not None
    assert client is not None
    assert handshake(server, client)


def test_a_caller_without_a_certificate_is_refused_where_one_is_wanted(files: dict[str, Path]) -> None:
    server = server_context(cert=files["cert"], key=files["key"], ca=files["ca"])
    client = client_context(cert=None, key=None, ca=files["ca"])

    assert server is not None
    assert client is not None
    with pytest.raises(ssl.SSLError):
        handshake(server, client)


def test_a_server_of_another_authority_is_refused(files: dict[str, Path]) -> None:
    server = server_context(cert=files["cert"], key=files["key"], ca=None)
    client = client_context(cert=files["cert"], key=files["key"], ca=None)

    assert server is not None
    assert client is not None
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client)


@pytest.mark.parametrize("wrong", ["nonsense", "missing"])
def test_a_file_that_is_no_certificate_is_named(files: dict[str, Path], wrong: str) -> None:
    path = files.get(wrong, Path("/nonexistent/x.pem"))

    with pytest.raises(ConfigError, match="tls_cert"):
        server_context(cert=path, key=files["key"], ca=None)
    with pytest.raises(ConfigError, match="tls_ca"):
        server_context(cert=files["cert"], key=files["key"], ca=path)
    with pytest.raises(ConfigError, match="tls_ca"):
        client_context(cert=None, key=None, ca=path)
