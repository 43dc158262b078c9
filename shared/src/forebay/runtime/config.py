"""Settings of every process: flags over environment over a file over defaults, checked before anything starts.

A field ``tier_dirs`` of the worker is the flag ``--tier-dirs`` and the variable ``FOREBAY_WORKER_TIER_DIRS``; the
fields that all services share may also be set for all at once (``FOREBAY_REGISTRY``). A list is one flag repeated, and
one variable with commas (or a JSON array). ``--config FILE`` (or ``FOREBAY_CONFIG``) has the variables' names in YAML;
one file may serve all services. What is wrong is reported as `ConfigError` under the name that the user
wrote; nothing is ignored in silence, a misspelt ``FOREBAY_…`` variable included.
"""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar, Union, get_args, get_origin

import orjson
from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from forebay.contracts.tickets import KeyRing, parse_key_file
from forebay.errors import ConfigError
from forebay.runtime import logs
from forebay.runtime.config_file import CONFIG_FLAG, CONFIG_VARIABLE, FileValue, read_config_file
from forebay.runtime.tls import TlsFiles, tls_files

COMMON_PREFIX = "FOREBAY_"
SERVICE_PREFIXES = ("FOREBAY_MASTER_", "FOREBAY_WORKER_", "FOREBAY_FUSE_", "FOREBAY_CLI_")
OTHER_VARIABLES = frozenset({"FOREBAY_TOOLS", CONFIG_VARIABLE})
"""Variables that are no settings: where the tests find third-party servers, and the settings' file."""

CHECK_FLAG = "--check-config"

TOKEN_MIN_CHARS = 16
SECRET_FILE_MAX_BYTES = 64 << 10
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgtp", 1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
WILDCARDS = frozenset({"0.0.0.0", "::", "[::]"})
_HAS_PORT = re.compile(r"(^[^:]+|\]):\d+$")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")

Shown = str | int | float | bool | None


def parse_size(text: str | int) -> int:
    """``4GiB``, ``4G`` (both binary), ``4GB`` (decimal) or a plain number, in bytes. Raises ValueError."""
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{text!r} is no size such as 4GiB, 512MiB or 1000000")
    try:
        return int(float(match[1]) * _UNITS[match[2].lower()])
    except OverflowError as e:
        raise ValueError(f"{text[:20]!r}… is more than any disk has") from e


Size = Annotated[int, BeforeValidator(parse_size)]
"""A field in bytes that takes ``4GiB``."""


class Settings(BaseSettings):
    """Base of all settings. Subclasses set ``env_prefix``; each field's ``description`` is its help text."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", enable_decoding=False, env_ignore_empty=True, case_sensitive=False
    )
    common: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*", mode="before")
    @classmethod
    def _split(cls, value: object, info: Any) -> object:
        is_list = info.field_name in cls.model_fields and _is_list(cls.model_fields[info.field_name])
        return split_list(value) if is_list and isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _CommonEnv(settings_cls, cls.common)

    def shown(self) -> dict[str, Shown]:
        """All values as plain data, for logs and status pages. Secrets are only ever in files, so these are paths."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}


class ServiceSettings(Settings):
    """What every service has."""

    changing_endpoints: ClassVar[bool] = True
    """Whether this service has admin endpoints that change something."""

    checks_tickets: ClassVar[bool] = True
    """Whether this service needs the cluster key. One that does not may listen off loopback behind mutual TLS."""

    registry: str = Field(
        "http://127.0.0.1:7070",
        description="http(s)://host:port of the master that serves the registry, or zookeeper://h:p[,h:p]/chroot",
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="port to listen on; 0 takes any")
    uds: Path | None = Field(None, description="Unix socket to listen on as well")
    log_level: str = Field("info", description=f"one of {', '.join(logs.LEVELS)}")
    log_json: bool = Field(True, description="log JSON lines; otherwise lines for people")
    otlp_endpoint: str | None = Field(None, description="OTLP/HTTP collector, http://host:4318; unset exports nothing")
    trace_ratio: float = Field(0.0, ge=0, le=1, description="share of new traces that are recorded")
    cluster_key_file: Path | None = Field(None, description="file with the keys that sign tickets: '<id> <hex>' lines")
    admin_token_file: Path | None = Field(None, description="file with the bearer token for changing endpoints")
    insecure: bool = Field(False, description="allow listening off loopback without key and token")
    tls_cert: Path | None = Field(None, description="certificate chain (PEM)")
    tls_key: Path | None = Field(None, description="private key (PEM)")
    tls_ca: Path | None = Field(None, description="authorities to check peers against (PEM)")
    cluster_id: str = Field("forebay", min_length=1, max_length=64, description="name of the cluster")
    member_id: str | None = Field(None, min_length=1, max_length=255, description="name of this process in the map")
    ufs_roots: tuple[str, ...] = Field(
        (), description="allowed roots, [profile=]s3://bucket/prefix[@endpoint] or file:///dir; repeatable"
    )

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value not in logs.LEVELS:
            raise ValueError(f"want one of {', '.join(logs.LEVELS)}")
        return value

    def member_name(self, port: int) -> str:
        """``member_id``, or ``<host name>-<port>-<6 hex digits>``."""
        return self.member_id or f"{socket.gethostname()[:200]}-{port}-{secrets.token_hex(3)}"


class MemberSettings(ServiceSettings):
    """What a service has that others call by the cluster map."""

    advertise: str | None = Field(
        None,
        min_length=1,
        max_length=250,
        description="host or host:port where others reach this service; default: what it listens on, or the host's name"
        " if that is every address",
    )

    def advertised(self, bound: str, host_name: str) -> str:
        """``host:port`` for the cluster map, of a listener bound to ``bound`` (``host:port``, ``[v6]:port``)."""
        host, _, port = bound.rpartition(":")
        if self.advertise is None:
            return f"{host_name if host in WILDCARDS else host}:{port}"
        return self.advertise if _HAS_PORT.search(self.advertise) else f"{self.advertise}:{port}"


ServiceSettings.common = frozenset(ServiceSettings.model_fields)

S = TypeVar("S", bound=Settings)


def split_list(text: str) -> list[str]:
    """A list variable: a JSON array, or items between commas (blanks trimmed, empty items dropped)."""
    if text.lstrip().startswith("["):
        try:
            items = orjson.loads(text)
        except orjson.JSONDecodeError as e:
            raise ValueError(f"starts like a JSON array and is none: {e}") from e
        if all(isinstance(item, str) for item in items):
            return list(items)
        raise ValueError("want a JSON array of texts")
    return [item.strip() for item in text.split(",") if item.strip()]


def load(
    kind: type[S],
    argv: Sequence[str],
    *,
    prog: str,
    version: str,
    description: str,
) -> S:
    """The settings of this process.

    Raises:
        ConfigError: an unknown flag, ``FOREBAY_…`` variable or name in the file (the nearest is suggested), or a bad
            value.
        SystemExit: after ``--help``, ``--version`` or ``--check-config``, with code 0.
    """
    parser = _parser(kind, prog, version, description)
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        raise _unknown_flag(unknown[0], [option for option in parser._option_string_actions if option[:2] == "--"])
    _check_variables(kind, os.environ)
    flags = {name: value for name, value in vars(given).items() if value is not None}
    file: Path | None = flags.pop("config", None) or _variable_path(os.environ)
    is_check = flags.pop("check_config", False)
    said = read_config_file(file) if file is not None else {}
    _check_variables(kind, said)
    try:
        settings = kind(**(_from_file(kind, said, os.environ) | flags))
    except ValidationError as error:
        raise _explain(kind, error.errors()[0], flags, os.environ, said) from None
    if is_check:
        raise SystemExit(0)
    return settings


def _variable_path(environ: Mapping[str, str]) -> Path | None:
    path = environ.get(CONFIG_VARIABLE)
    return Path(path) if path else None


def _from_file(kind: type[Settings], said: Mapping[str, FileValue], environ: Mapping[str, str]) -> dict[str, FileValue]:
    """The file's values by field: its own name before the one that all services share; the environment beats both."""
    found: dict[str, FileValue] = {}
    for name in kind.model_fields:
        names = [_variable(kind, name), *([f"{COMMON_PREFIX}{name.upper()}"] if name in kind.common else [])]
        value = next((said[n] for n in names if n in said), None)
        if value is not None and not any(environ.get(n) for n in names):
            found[name] = value
    return found


def check_exposure(settings: ServiceSettings) -> None:
    """Refuses to show an unprotected service to a network.

    Raises:
        ConfigError: the listener is off loopback, not ``insecure``, and there is no cluster key, or no admin token
            although the service has changing endpoints. A service that checks no tickets may have mutual TLS instead.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise ConfigError("tls_cert", "goes together with tls_key")
    if settings.insecure or is_loopback(settings.host):
        return
    if not settings.checks_tickets and settings.tls_cert is not None and settings.tls_ca is not None:
        return
    if settings.cluster_key_file is None:
        raise ConfigError("cluster_key_file", f"is needed to listen on {settings.host}; give one, or set insecure")
    if settings.changing_endpoints and settings.admin_token_file is None:
        raise ConfigError("admin_token_file", f"is needed to listen on {settings.host}; give one, or set insecure")


def is_loopback(host: str) -> bool:
    """Whether ``host`` is reachable from this machine only. Names other than localhost are not trusted to be."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def read_key_ring(settings: ServiceSettings) -> KeyRing:
    """The keys in ``cluster_key_file``; the logs never print them.

    Without a file an ``insecure`` service uses a key that everybody knows, so that its peers agree with it.

    Raises:
        ConfigError: no file and not ``insecure``, or the file cannot be read or holds no good key.
    """
    if settings.cluster_key_file is None:
        if not settings.insecure:
            raise ConfigError("cluster_key_file", "is needed to check tickets; give the cluster's, or set insecure")
        return KeyRing((("insecure", f"insecure {settings.cluster_id}".encode().ljust(16, b".")),))
    ring = parse_key_file(_read_secret(settings.cluster_key_file, "cluster_key_file"), setting="cluster_key_file")
    for _, secret in ring.keys:
        logs.hide(secret.hex())
    return ring


def read_tls(settings: ServiceSettings) -> TlsFiles | None:
    """The certificate files, read now and again when they change; ``None`` where none is set.

    Raises:
        ConfigError: one cannot be read or is not what it should be.
    """
    return tls_files(cert=settings.tls_cert, key=settings.tls_key, ca=settings.tls_ca, cluster_id=settings.cluster_id)


def read_admin_token(settings: ServiceSettings) -> str | None:
    """The token in ``admin_token_file``, without the blanks around it; ``None`` when no file is set.

    Raises:
        ConfigError: the file cannot be read, or the token is shorter than `TOKEN_MIN_CHARS` or not printable ASCII.
    """
    if settings.admin_token_file is None:
        return None
    token = _read_secret(settings.admin_token_file, "admin_token_file").strip()
    if len(token) < TOKEN_MIN_CHARS or not (token.isascii() and token.isprintable()) or " " in token:
        raise ConfigError("admin_token_file", f"want one line of at least {TOKEN_MIN_CHARS} printable ASCII characters")
    logs.hide(token)
    return token


class _CommonEnv(EnvSettingsSource):
    """``FOREBAY_<NAME>`` for the fields that all services share."""

    def __init__(self, kind: type[BaseSettings], names: frozenset[str]) -> None:
        super().__init__(kind, env_prefix=COMMON_PREFIX)
        self._names = names

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__call__().items() if name in self._names}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        match = re.fullmatch(r"argument (\S+?)(?:[/,]\s*\S+)*: (.*)", message)
        raise ConfigError(match[1] if match else "arguments", match[2] if match else message)


def _parser(kind: type[Settings], prog: str, version: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{prog} {version}")
    text = f"YAML file with settings, named as in the environment; flags and variables beat it [{CONFIG_VARIABLE}]"
    parser.add_argument(CONFIG_FLAG, type=Path, default=None, help=text, metavar="PATH")
    parser.add_argument(CHECK_FLAG, action="store_true", default=None, help="check all settings, and end")
    for name, field in kind.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        text = f"{field.description or ''} [{_variable(kind, name)}{_default(field)}]".strip().replace("%", "%%")
        if _plain_type(field.annotation) is bool:
            parser.add_argument(flag, dest=name, default=None, help=text, action=argparse.BooleanOptionalAction)
        else:
            action = "append" if _is_list(field) else "store"
            parser.add_argument(flag, dest=name, default=None, help=text, action=action, metavar=_metavar(field))
    return parser


def _default(field: FieldInfo) -> str:
    value = _plain(field.get_default())
    return f", default {value}" if not field.is_required() and value not in (None, "") else ""


def _metavar(field: FieldInfo) -> str:
    kind = _plain_type(field.annotation)
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT") if isinstance(kind, type) else "TEXT"


def _plain_type(annotation: Any) -> Any:
    """The type without ``| None``."""
    if get_origin(annotation) in (Union, UnionType):
        inner = [arg for arg in get_args(annotation) if arg is not NoneType]
        return inner[0] if len(inner) == 1 else annotation
    return annotation


def _is_list(field: FieldInfo) -> bool:
    return get_origin(_plain_type(field.annotation)) in (tuple, list)


def _plain(value: Any) -> Shown:
    if isinstance(value, (tuple, list)):
        return ", ".join(logs.redact(str(item)) for item in value)
    return value if value is None or isinstance(value, (bool, int, float)) else logs.redact(str(value))


def _prefix(kind: type[Settings]) -> str:
    return kind.model_config.get("env_prefix") or COMMON_PREFIX


def _variable(kind: type[Settings], name: str) -> str:
    return f"{_prefix(kind)}{name.upper()}"


def _check_variables(kind: type[Settings], environ: Mapping[str, object]) -> None:
    own = _prefix(kind)
    known = {_variable(kind, name) for name in kind.model_fields} | OTHER_VARIABLES
    known |= {f"{COMMON_PREFIX}{name.upper()}" for name in kind.common}
    others = tuple(prefix for prefix in SERVICE_PREFIXES if prefix != own)
    for name in sorted(environ):
        if name.startswith(COMMON_PREFIX) and name not in known and not name.startswith(others):
            raise ConfigError(name, f"is no setting{_nearest(name, known)}")


def _unknown_flag(flag: str, known: Iterable[str]) -> ConfigError:
    name = flag.split("=", 1)[0]
    return ConfigError(name, f"is no setting{_nearest(name, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _explain(
    kind: type[Settings],
    error: ErrorDetails,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    said: Mapping[str, FileValue],
) -> ConfigError:
    name = str(error["loc"][0]) if error["loc"] else "settings"
    message = error["msg"].removeprefix("Value error, ")
    shown = "" if error["type"] == "missing" else f"{logs.redact(repr(error['input']))[:120]}: "
    return ConfigError(
        _as_written(kind, name, flags, {**said, **environ}), f"{shown}{message[:1].lower()}{message[1:]}"
    )


def _as_written(kind: type[Settings], name: str, flags: Mapping[str, object], environ: Mapping[str, object]) -> str:
    common = f"{COMMON_PREFIX}{name.upper()}"
    if name not in flags:
        for variable in (_variable(kind, name), common):
            if environ.get(variable) and (variable != common or name in kind.common):
                return variable
    return f"--{name.replace('_', '-')}"


def _read_secret(path: Path, setting: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(SECRET_FILE_MAX_BYTES + 1)
        if len(data) > SECRET_FILE_MAX_BYTES:
            raise ConfigError(setting, f"{path} is larger than {SECRET_FILE_MAX_BYTES} bytes")
        return data.decode()
    except OSError as e:
        raise ConfigError(setting, f"{path} cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise ConfigError(setting, f"{path} is not UTF-8 text") from e
