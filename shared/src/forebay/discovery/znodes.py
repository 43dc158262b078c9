"""The product's znodes: their paths, what is in them, and what a process does about its own. Pure.

```
<chroot>/forebay/<cluster id>/members/<member id>     ephemeral, a Member: written by the member itself
                              withdrawn/<member id>   empty: that member left on purpose; removed by the map's writer
                              map                     the ClusterMap: written by the leading master, by compare-and-set
                              maps/<epoch>            the last maps, one an epoch
                              candidates/<session>-<n> ephemeral: a master that would lead; the lowest number does
                              leader                  the Leader; its version fences every write of the leader
                              tables/<name>           a TableHead; <name>/<key> below it: one record each
```
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, unquote

from forebay.contracts import ClusterMap, Member, decode_stored, encode
from forebay.discovery.leases import check_member, is_succeeded
from forebay.errors import CallerError, ForebayError, InvalidRequest, PeerMisbehaved

MEMBER_BYTES_MAX = 16 << 10
"""A member's znode: about 400 bytes with two tiers."""


@dataclass(frozen=True)
class Paths:
    """Where things lie for one cluster."""

    chroot: str
    cluster_id: str

    @property
    def base(self) -> str:
        """Parent of all others."""
        return f"{self.chroot}/forebay/{znode_name(self.cluster_id)}"

    @property
    def members(self) -> str:
        """Parent of the members."""
        return f"{self.base}/members"

    @property
    def withdrawn(self) -> str:
        """Parent of the marks of those who left."""
        return f"{self.base}/withdrawn"

    @property
    def map(self) -> str:
        """The cluster map."""
        return f"{self.base}/map"

    @property
    def maps(self) -> str:
        """Parent of earlier maps."""
        return f"{self.base}/maps"

    @property
    def candidates(self) -> str:
        """Parent of those who would lead."""
        return f"{self.base}/candidates"

    @property
    def leader(self) -> str:
        """Who leads."""
        return f"{self.base}/leader"

    @property
    def tables(self) -> str:
        """Parent of the tables."""
        return f"{self.base}/tables"

    def table(self, name: str) -> str:
        """One table's head, parent of its records."""
        return f"{self.tables}/{znode_name(name)}"

    def record(self, table: str, key: str) -> str:
        """One record."""
        return f"{self.table(table)}/{znode_name(key)}"

    def is_ours(self, path: str) -> bool:
        """Whether the node belongs to this cluster alone."""
        return path == self.base or path.startswith(f"{self.base}/")

    def is_private(self, path: str) -> bool:
        """Whether clients have no business there."""
        return any(path == top or path.startswith(f"{top}/") for top in (self.candidates, self.leader, self.tables))

    def member(self, member_id: str) -> str:
        """One member."""
        return f"{self.members}/{znode_name(member_id)}"

    def mark(self, member_id: str) -> str:
        """The mark that a member left."""
        return f"{self.withdrawn}/{znode_name(member_id)}"

    def epoch(self, epoch: int) -> str:
        """The map of an epoch; names sort like numbers."""
        return f"{self.maps}/{epoch:020d}"


def znode_name(text: str) -> str:
    """``text`` as one step of a znode path: without ``/`` and control characters, and neither ``.`` nor ``..``."""
    return quote(text, safe="").replace(".", "%2E")


def name_of(znode: str) -> str:
    """What ``znode_name`` was given."""
    return unquote(znode)


def member_data(member: Member) -> bytes:
    """The member as its znode holds it.

    Raises:
        InvalidRequest: over ``MEMBER_BYTES_MAX``.
    """
    data = encode(member)
    if len(data) > MEMBER_BYTES_MAX:
        raise InvalidRequest(
            f"member {member.member_id!r} takes {len(data)} bytes, the limit is {MEMBER_BYTES_MAX}: fewer tiers",
            size_bytes=len(data),
            limit_bytes=MEMBER_BYTES_MAX,
        )
    return data


def parse_member(data: bytes, member_id: str) -> Member:
    """The member a znode of that name holds. Znodes come from other processes: everything is checked.

    Raises:
        ForebayError: garbage, another id than the name says, too big, or what no registry takes.
    """
    if len(data) > MEMBER_BYTES_MAX:
        raise InvalidRequest(f"the znode of member {member_id!r} is too big", size_bytes=len(data))
    member = decode_stored(Member, data)
    if member.member_id != member_id:
        raise InvalidRequest(f"the znode of member {member_id!r} holds {member.member_id!r}")
    check_member(member)
    return member


def parse_map(data: bytes, paths: Paths) -> ClusterMap:
    """The map that the map znode holds.

    Raises:
        PeerMisbehaved: it is no map of ours. It is left for a person to look at, never overwritten.
    """
    try:
        cluster_map = decode_stored(ClusterMap, data)
    except CallerError as e:
        raise PeerMisbehaved(f"the map at {paths.map} cannot be read: {e.message}") from e
    if cluster_map.cluster_id != paths.cluster_id:
        raise PeerMisbehaved(f"the map at {paths.map} is of cluster {cluster_map.cluster_id!r}")
    return cluster_map


@dataclass(frozen=True)
class Found:
    """The znode of our member id as it is: its data, and the session it belongs to."""

    data: bytes
    owner: int


Step = Literal["create", "keep", "update", "replace", "held", "superseded"]


def next_step(
    found: Found | None,
    wanted: Member,
    *,
    session: int,
    own_sessions: Collection[int],
    was_member: bool,
    succeeds: Collection[str] = (),
) -> Step:
    """What to do about the znode of our id.

    | found                                  | then                                                      |
    |----------------------------------------|-----------------------------------------------------------|
    | nothing                                | create                                                    |
    | ours, same data / other data           | keep / update (a create that failed may have worked)      |
    | of an earlier session of ours          | replace: it only waits for its time-out                   |
    | another's, and we were a member before | superseded: a newer process has the id                    |
    | another's, garbage or at our address   | replace: an address has one process, the other is dead    |
    | another's, whose tier directory we hold| replace: its lock proves the other dead                   |
    | another's                              | held: wait                                                |
    """
    if found is None:
        return "create"
    if found.owner == session:
        return "keep" if found.data == encode(wanted) else "update"
    if found.owner in own_sessions:
        return "replace"
    if was_member:
        return "superseded"
    holder = _holder(found.data, wanted.member_id)
    is_dead = holder is None or holder.tcp == wanted.tcp or is_succeeded(holder, succeeds)
    return "replace" if is_dead else "held"


def holder_address(data: bytes, member_id: str) -> str | None:
    """``host:port`` in a member's znode; ``None`` where that is garbage."""
    holder = _holder(data, member_id)
    return holder.tcp if holder is not None else None


def _holder(data: bytes, member_id: str) -> Member | None:
    try:
        return parse_member(data, member_id)
    except ForebayError:
        return None
