"""Certificates for tests: an authority, and files by role as settings name them."""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from forebay.runtime.tls import ROLES, role_uri

LIFETIME = timedelta(days=1)
SKEW = timedelta(minutes=5)


class Authority:
    """An authority of its own key; ``issue`` gives a PEM of key and certificate for 127.0.0.1 and localhost."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)
        """The certificate, for ``tls_ca``."""

    def issue(self, *roles: str, name: str = "test", cluster_id: str = "forebay") -> bytes:
        """A new key and a certificate that names ``roles``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.DNSName("localhost"),
            *(x509.UniformResourceIdentifier(role_uri(cluster_id, role)) for role in roles),
        ]
        builder = _builder(subject, self._name, key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        signed = builder.sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private + signed.public_bytes(serialization.Encoding.PEM)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - SKEW).not_valid_after(now + LIFETIME)


def write_role_files(folder: Path, authority: Authority, *, trusted: bytes | None = None) -> None:
    """``ca.pem``, a ``<role>.pem`` for every role, and ``nobody.pem`` that names none; each replaced in one step.

    ``trusted``: other authorities than the one that signs.
    """
    replace(folder / "ca.pem", authority.pem if trusted is None else trusted)
    replace(folder / "nobody.pem", authority.issue())
    for role in ROLES:
        replace(folder / f"{role}.pem", authority.issue(role))


def replace(path: Path, content: bytes) -> None:
    """As who renews certificates does: a new file under the old name."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, path)
