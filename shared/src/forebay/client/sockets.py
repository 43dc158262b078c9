"""Short circuit by Unix socket: workers of this host, asked over their socket instead of the network.

A worker names its socket by the nonce that it has new at every start, so who finds ``<nonce>.sock`` in a directory of
his own configuration has found that very worker; addresses from registrations mean nothing (DESIGN 6). The requests
are the same, tickets included.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from forebay.contracts import Member
from forebay.contracts.members import socket_name


class LocalSockets:
    """The configured directories, and the workers whose sockets were found there."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._found: dict[str, str] = {}

    @property
    def member_ids(self) -> frozenset[str]:
        """Workers that were found on this host."""
        return frozenset(self._found)

    def refresh(self, members: Iterable[Member]) -> None:
        """Looks for the sockets of ``members`` anew."""
        self._found = {}
        for member in members if self._paths else ():
            if (path := self._path(member)) is not None:
                self._found[member.member_id] = f"unix:{path}"

    def _path(self, member: Member) -> Path | None:
        names = [socket_name(tier.nonce) for tier in member.tiers]
        return next((path for folder in self._paths for name in names if _is_socket(path := folder / name)), None)

    def address(self, member: Member) -> str | None:
        """Where to ask ``member`` on this host."""
        return self._found.get(member.member_id)

    def lost(self, member: Member) -> None:
        """The socket cannot be reached: not used until it is found anew."""
        self._found.pop(member.member_id, None)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:  # not there, or not ours to see: the network is always open
        return False
