"""TLS from the files that settings name: contexts, new files without a restart, and the roles that certificates name.

`TlsFiles` looks at its files at every handshake and reads them again when they changed: connections that stand keep
what they have, new ones get what is there now, and files that do not fit together (a certificate whose key is still the
old one) are told in the log while the last good ones go on. No session is resumed: that would skip the look at the
caller's certificate.

A certificate names its role by a URI among its subject's alternative names, ``forebay://<cluster id>/<role>``; it may
name several. One that names none is a ``client``'s. What the names are good for is said at the doors
(``transport.app.require_role``). Which ALPN names are offered is the transport's business.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from forebay.errors import ConfigError, PeerMisbehaved
from forebay.runtime import logs

ROLES = ("master", "worker", "gateway", "client", "admin")
SERVING_ROLES = frozenset({"master", "worker"})
"""Who is dialed: a certificate that names other roles only, shown by a server, is somebody else's."""

Certificate = Mapping[str, Any]
"""As ``ssl`` gives it; empty if the peer showed none."""

_Stamp = tuple[tuple[int, int, int] | None, ...]


def role_uri(cluster_id: str, role: str) -> str:
    """The name that makes a certificate one of ``role``."""
    return f"forebay://{quote(cluster_id, safe='')}/{role}"


def roles_named(certificate: Certificate, cluster_id: str) -> frozenset[str]:
    """The roles in this cluster that a checked certificate names; names of other clusters count for nothing."""
    names = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"}
    return frozenset(role for role in ROLES if role_uri(cluster_id, role) in names)


class TlsFiles:
    """The certificate files of one process; `tls_files` makes it from settings.

    Raises:
        ConfigError: from the constructor, as `server_context`. Later a bad file is logged, and the last good one used.
    """

    def __init__(self, *, cert: Path | None, key: Path | None, ca: Path | None, cluster_id: str = "forebay") -> None:
        self.is_mutual = cert is not None and ca is not None
        """Whether every caller shows a certificate of our authorities."""
        self._files = _Files(cert, key, ca)
        self._cluster_id = cluster_id
        self._server_alpn: Sequence[str] = ()
        self._client_alpn: Sequence[str] = ()
        self._stamp = self._files.stamp()
        self._server, self._client = self._files.contexts()
        self.generation = 1
        """How often the files were read and found good."""

    def server(self, alpn: Sequence[str]) -> ssl.SSLContext | None:
        """For a listener, or ``None`` without a certificate of our own: each handshake uses the files as they are."""
        self._server_alpn = alpn
        self._offer()
        if (listening := self._server) is not None:
            listening.sni_callback = self._on_hello
        return listening

    def client(self, alpn: Sequence[str]) -> ssl.SSLContext | None:
        """For one connection to be made now."""
        self._client_alpn = alpn
        self.refresh()
        self._offer()
        return self._client

    def _on_hello(self, tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        """Called in every handshake, whether the caller names a host or not."""
        self.refresh()
        if self._server is not None:
            tls.context = self._server

    def refresh(self) -> None:
        """Reads the files again if they changed."""
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        log = logs.get(__name__)
        try:
            self._server, self._client = self._files.contexts()
        except ConfigError as e:
            log.warning("certificates_not_reloaded", error=str(e))
            return
        self.generation += 1
        self._offer()
        log.info("certificates_reloaded", generation=self.generation)

    def _offer(self) -> None:
        for context, names in ((self._server, self._server_alpn), (self._client, self._client_alpn)):
            if context is not None and names:
                context.set_alpn_protocols(list(names))

    def roles(self, certificate: Certificate | None) -> frozenset[str]:
        """What a caller may act as: what its certificate names, else ``client``."""
        return roles_named(certificate or {}, self._cluster_id) or frozenset({"client"})

    def check_server(self, peer: str, certificate: Certificate | None) -> None:
        """Raises PeerMisbehaved when who answered at ``peer`` names roles, and none that serves."""
        named = roles_named(certificate or {}, self._cluster_id)
        if named and not named & SERVING_ROLES:
            raise PeerMisbehaved(f"{peer} shows the certificate of a {min(named)}", peer=peer, reason="role")


def tls_files(*, cert: Path | None, key: Path | None, ca: Path | None, cluster_id: str) -> TlsFiles | None:
    """`TlsFiles`, or ``None`` where no file is named.

    Raises:
        ConfigError: as `server_context`.
    """
    return None if cert is None and ca is None else TlsFiles(cert=cert, key=key, ca=ca, cluster_id=cluster_id)


@dataclass(frozen=True)
class _Files:
    """Small and local files: they are read on the event loop."""

    cert: Path | None
    key: Path | None
    ca: Path | None

    def stamp(self) -> _Stamp:
        """Differs when a file was replaced or written."""
        return tuple(_look(path) for path in (self.cert, self.key, self.ca) if path is not None)

    def contexts(self) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
        """A listener's and a client's."""
        files = {"cert": self.cert, "key": self.key, "ca": self.ca}
        return server_context(**files), client_context(**files)


def _look(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def server_context(*, cert: Path | None, key: Path | None, ca: Path | None) -> ssl.SSLContext | None:
    """The listener's context, or ``None`` without ``cert``. With ``ca`` every caller must show a certificate.

    Raises:
        ConfigError: a file that cannot be read or is not what it should be, named by its setting.
    """
    if cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _load_pair(context, cert, key)
    if ca is not None:
        _load_authorities(context, ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(*, cert: Path | None, key: Path | None, ca: Path | None) -> ssl.SSLContext | None:
    """The context for calls, or ``None`` without ``cert`` and ``ca``. Host names are checked.

    Authorities are those of ``ca``, else the system's; ``cert`` and ``key`` are shown to servers that ask.

    Raises:
        ConfigError: as `server_context`.
    """
    if cert is None and ca is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        _load_authorities(context, ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if cert is not None:
        _load_pair(context, cert, key)
    return context


def _load_pair(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as e:
        raise ConfigError("tls_cert", f"{cert} and its key cannot be used: {_reason(e)}") from e


def _load_authorities(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as e:
        raise ConfigError("tls_ca", f"{ca} cannot be used: {_reason(e)}") from e


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
