"""Who may do what with the product's znodes: holders of the cluster key all, others read what clients need. Pure.

ZooKeeper's digests are passwords that travel in clear, so none of ours is the key itself: each is made from one. A
session shows all keys of the ring, and a node admits each of them: keys rotate as for tickets.

| nodes                                      | holders of a key | everybody else          |
|--------------------------------------------|------------------|-------------------------|
| above the cluster's own                    | –                | read, make nodes below  |
| members, marks, maps                       | everything       | read                    |
| candidates, the leader, tables (mounts, …) | everything       | nothing                 |

Without a key (``insecure``) everybody may do everything.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from forebay.contracts.tickets import KeyRing
from forebay.discovery.znodes import Paths

Grant = Literal["all", "read", "enter"]
Who = tuple[str, str, str]
"""Scheme, user, password."""

WORLD: Who = ("world", "anyone", "")


@dataclass(frozen=True)
class Access:
    """What one process shows, and what it lets others do."""

    paths: Paths
    digests: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Access({self.paths.base}, {', '.join(user for user, _ in self.digests)})"

    def entries(self, path: str) -> Iterator[tuple[Grant, Who]]:
        """The access list of a node."""
        if not self.digests:
            yield "all", WORLD
        elif not self.paths.is_ours(path):
            yield "enter", WORLD
        else:
            yield from (("all", ("digest", user, password)) for user, password in self.digests)
            if not self.paths.is_private(path):
                yield "read", WORLD


def access(paths: Paths, keys: KeyRing | None) -> Access:
    """The access of a process that holds ``keys``."""
    return Access(
        paths, tuple((name, _password(secret, paths.cluster_id)) for name, secret in keys.keys) if keys else ()
    )


def _password(secret: bytes, cluster_id: str) -> str:
    return hmac.digest(secret, b"forebay znodes\0" + cluster_id.encode(), "sha256").hex()
