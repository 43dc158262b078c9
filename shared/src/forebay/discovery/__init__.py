"""Who is there: announce a member, follow the cluster map. One protocol, over ZooKeeper or a master's own registry."""

from forebay.contracts.members import master_addresses
from forebay.discovery.hub import EmbeddedHub
from forebay.discovery.maps import next_map
from forebay.discovery.opening import RegistryUrl, local_registry, open_registry, parse_registry_url
from forebay.discovery.protocol import Election, Ledger, Registry, RegistryOptions
from forebay.discovery.routes import add_map_route, add_registry_routes
from forebay.discovery.terms import Leader, Table

__all__ = [
    "Election",
    "EmbeddedHub",
    "Leader",
    "Ledger",
    "Registry",
    "RegistryOptions",
    "RegistryUrl",
    "Table",
    "add_map_route",
    "add_registry_routes",
    "local_registry",
    "master_addresses",
    "next_map",
    "open_registry",
    "parse_registry_url",
]
