"""What the file system may be told, as text or values: fields of the client's options, and their environment names."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from forebay.client import ClientOptions
from forebay.errors import ConfigError

_FIELDS = {f.name: f.type for f in fields(ClientOptions)}
_PATHS = ("tls_ca", "tls_cert", "tls_key")
_OF_ANY_FILE_SYSTEM = frozenset({"block_size"})
"""What `fsspec.open` hands to any file system: how much to read at once, which is the client's affair here."""

_FROM_ENVIRONMENT = {
    "registry": "FOREBAY_REGISTRY",
    "cluster_id": "FOREBAY_CLUSTER_ID",
    "short_circuit_dirs": "FOREBAY_SHORT_CIRCUIT_DIRS",
    "tls_ca": "FOREBAY_TLS_CA",
    "tls_cert": "FOREBAY_TLS_CERT",
    "tls_key": "FOREBAY_TLS_KEY",
}


def client_options(given: Mapping[str, Any], environ: Mapping[str, str]) -> ClientOptions:
    """``given`` names fields of ``ClientOptions``; what is missing comes from the environment.

    Raises:
        ConfigError: no registry, a name that is no option, a value that cannot work.
    """
    found = {name: environ[key] for name, key in _FROM_ENVIRONMENT.items() if environ.get(key)}
    found.update(
        {name: value for name, value in given.items() if value is not None and name not in _OF_ANY_FILE_SYSTEM}
    )
    for name in found:
        if name not in _FIELDS:
            raise ConfigError(name, "no option of forebay:// is called so")
    if "registry" not in found:
        raise ConfigError("registry", "say which cluster: registry='http://host:7070', or FOREBAY_REGISTRY")
    found.setdefault("client_id", f"fsspec-{os.getpid()}-{secrets.token_hex(3)}")
    options = ClientOptions(**{name: _value(name, value) for name, value in found.items()})
    options.validate()
    return options


def _value(name: str, value: Any) -> Any:
    if name == "short_circuit_dirs":
        parts: Iterable[Any] = value.split(os.pathsep) if isinstance(value, str) else value
        return tuple(Path(part) for part in parts if part)
    return Path(value) if name in _PATHS else value
