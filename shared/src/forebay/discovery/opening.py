"""The registry setting, read: which registry, where. Concrete registries are built here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from forebay.contracts.tickets import KeyRing
from forebay.discovery.doors import HttpDoor, LocalDoor
from forebay.discovery.embedded import EmbeddedRegistry
from forebay.discovery.hub import EmbeddedHub
from forebay.discovery.protocol import Registry, RegistryOptions
from forebay.errors import ConfigError
from forebay.telemetry import Telemetry
from forebay.transport import HttpClient

SETTING = "registry"
ZOOKEEPER_PORT = 2181


@dataclass(frozen=True)
class RegistryUrl:
    """A parsed registry setting. ``hosts`` has one or more ``host:port``, of masters or of ZooKeeper;
    ``chroot`` is the path below which all of the product's znodes lie, empty or ``/a/b``."""

    kind: Literal["embedded", "zookeeper"]
    hosts: tuple[str, ...]
    chroot: str = ""
    tls: bool = False


def parse_registry_url(text: str) -> RegistryUrl:
    """Reads ``http://host:port[,host:port…]`` (masters), the same with ``https``, or ``zookeeper://host[:port][,host[:port]…][/chroot]``.

    Raises:
        ConfigError: anything else.
    """
    scheme, separator, rest = text.partition("://")
    authority, _, path = rest.partition("/")
    if not separator or scheme not in ("http", "https", "zookeeper") or not authority or "@" in authority:
        raise ConfigError(SETTING, f"{text!r} is neither http(s)://host:port nor zookeeper://host:port[,…][/path]")
    if scheme == "zookeeper":
        hosts = tuple(_host_port(part, ZOOKEEPER_PORT) for part in authority.split(","))
        steps = [step for step in path.split("/") if step]
        if any(step in (".", "..") for step in steps):
            raise ConfigError(SETTING, f"{path!r} is no znode path")
        return RegistryUrl("zookeeper", hosts, "".join(f"/{step}" for step in steps))
    if path:
        raise ConfigError(SETTING, f"an embedded registry has no path, {text!r} has one")
    port = 443 if scheme == "https" else 80
    hosts = tuple(_host_port(part, port) for part in authority.split(","))
    return RegistryUrl("embedded", hosts, tls=scheme == "https")


def _host_port(text: str, default: int) -> str:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port if parts.port is not None else default
    except ValueError as e:
        raise ConfigError(SETTING, f"{text!r} is no host:port") from e
    if not host or parts.path or set(text) & set("?#") or not 0 < port < 65536:
        raise ConfigError(SETTING, f"{text!r} is no host:port")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_registry(
    url: str,
    *,
    cluster_id: str,
    telemetry: Telemetry,
    client: HttpClient,
    keys: KeyRing | None = None,
    options: RegistryOptions | None = None,
) -> Registry:
    """The registry that ``url`` names; ``start`` it, and ``close`` it in the end.

    ``client`` carries the embedded registry's calls; ``https://`` and its TLS go together.

    ``keys``: the cluster's ring, needed to announce a member where the masters have one: the embedded registry takes
    announcements from holders of the cluster key only, and in ZooKeeper only they may change znodes.

    Raises:
        ConfigError: ``url`` names no registry, or one that ``client`` cannot speak to.
    """
    parsed = parse_registry_url(url)
    if parsed.kind == "zookeeper":
        from forebay.discovery.zookeeper_registry import ZooKeeperRegistry

        return ZooKeeperRegistry(
            parsed.hosts, parsed.chroot, cluster_id=cluster_id, telemetry=telemetry, keys=keys, options=options
        )
    if parsed.tls != client.encrypts:
        how = (
            "needs tls_ca (and tls_cert, where callers show certificates)" if parsed.tls else "and TLS: want https://…"
        )
        raise ConfigError(SETTING, f"{url} {how}")
    door = HttpDoor(client, parsed.hosts, cluster_id=cluster_id, keys=keys)
    return EmbeddedRegistry(door, cluster_id=cluster_id, telemetry=telemetry, options=options)


def local_registry(hub: EmbeddedHub, *, telemetry: Telemetry, options: RegistryOptions | None = None) -> Registry:
    """The registry for the master that serves ``hub`` itself: no HTTP between."""
    return EmbeddedRegistry(LocalDoor(hub), cluster_id=hub.cluster_id, telemetry=telemetry, options=options)
