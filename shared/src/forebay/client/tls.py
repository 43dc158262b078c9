"""The TLS seam of the client: a context from file names, or none for plain HTTP/2."""

from __future__ import annotations

import ssl

from forebay.client.options import ClientOptions
from forebay.errors import ConfigError


def client_context(options: ClientOptions) -> ssl.SSLContext | None:
    """A context that speaks ``h2`` and checks the peers, if ``tls_ca`` is set.

    Raises:
        ConfigError: a file that cannot be read or holds no certificate or key.
    """
    if options.tls_ca is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(options.tls_ca))
        if options.tls_cert is not None and options.tls_key is not None:
            context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as e:
        raise ConfigError("tls_ca", f"the TLS files cannot be used: {e}") from e
    context.set_alpn_protocols(["h2"])
    return context
