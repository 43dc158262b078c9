"""TLS contexts from the files that settings name. ALPN is the transport's business."""

from __future__ import annotations

import ssl
from pathlib import Path

from forebay.errors import ConfigError


def server_context(*, cert: Path | None, key: Path | None, ca: Path | None) -> ssl.SSLContext | None:
    """The listener's context, or ``None`` without ``cert``. With ``ca`` every caller must show a certificate.

    Raises:
        ConfigError: a file that cannot be read or is not what it should be, named by its setting.
    """
    if cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
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
