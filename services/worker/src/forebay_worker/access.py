"""What a request may have: its ticket verified, its target checked, its block id derived here and compared. Pure.

The same reader asks for range after range of one block with the same ticket, so what was checked is remembered by the
text of the request, until the mount table changes or the ticket ends.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

from forebay.contracts import BlockTarget, identity
from forebay.contracts.blocks import is_block_id, parse_block_query
from forebay.contracts.tickets import LEEWAY_S, KeyRing, TicketClaims, verify
from forebay.errors import InvalidRequest, NotFound, PermissionDenied, TicketOutOfPrefix, Unauthenticated
from forebay_worker.extents import Geometry
from forebay_worker.mounts import MountBook, Mounted

K = TypeVar("K")
V = TypeVar("V")

REMEMBERED_MAX = 8192
"""Requests, and tickets, that are remembered."""

REMEMBERED_CHARS_MAX = 4096
"""Longer requests are checked anew each time, so that the memory stays bounded in bytes as well."""


@dataclass(frozen=True)
class Asked:
    """A block that a client may read, as this worker derived it. ``offset`` is where it begins in the file."""

    block_id: str
    target: BlockTarget
    mounted: Mounted
    geometry: Geometry
    offset: int
    expires_at_s: float
    version: int

    @property
    def length(self) -> int:
        """Bytes of the block, by the client's word for the file's size."""
        return self.geometry.length


class Gate:
    """Checks requests. ``now_s`` and ``grace_s`` come in; see ``contracts.tickets.verify``."""

    def __init__(self, ring: KeyRing, cluster_id: str, book: MountBook, *, leeway_s: float = LEEWAY_S) -> None:
        self._ring = ring
        self._leeway_s = leeway_s
        self._cluster_id = cluster_id
        self._book = book
        self._asked: OrderedDict[tuple[str, str, str], Asked] = OrderedDict()
        self._claims: OrderedDict[str, TicketClaims] = OrderedDict()

    def check(self, block_id: str, query: str, ticket: str, *, now_s: float, grace_s: float = 0.0) -> Asked:
        """The block that this request may read.

        Raises:
            InvalidRequest: a malformed id or query, a block that the file does not have, an id that is not what this
                worker derives from the target.
            Unauthenticated, PermissionDenied: the ticket (see ``verify``), another mount or generation, or a key
                outside its prefix.
            NotFound: no such mount here.
        """
        text = (block_id, query, ticket)
        asked = self._asked.get(text)
        if (
            asked is not None
            and asked.version == self._book.version
            and now_s <= asked.expires_at_s + self._leeway_s + grace_s
        ):
            return asked
        asked = self._check(block_id, query, ticket, now_s=now_s, grace_s=grace_s)
        if len(query) + len(ticket) <= REMEMBERED_CHARS_MAX:
            _remember(self._asked, text, asked)
        return asked

    def check_target(self, target: BlockTarget, ticket: str, *, now_s: float, grace_s: float = 0.0) -> Asked:
        """As ``check``, for a target without the id that its client derived."""
        claims = self._verify(ticket, now_s, grace_s)
        mounted = self._mounted(claims, target)
        check_reach(claims, target)
        return derive(None, target, mounted, expires_at_s=claims.expires_at_s, version=self._book.version)

    def _check(self, block_id: str, query: str, ticket: str, *, now_s: float, grace_s: float) -> Asked:
        if not is_block_id(block_id):
            raise InvalidRequest("a block id is 32 lower-case hex digits", field="block_id")
        claims = self._verify(ticket, now_s, grace_s)
        target = parse_block_query(query)
        mounted = self._mounted(claims, target)
        check_reach(claims, target)
        return derive(block_id, target, mounted, expires_at_s=claims.expires_at_s, version=self._book.version)

    def _verify(self, ticket: str, now_s: float, grace_s: float) -> TicketClaims:
        if not ticket:
            raise Unauthenticated("a ticket is needed; ask a master for one", reason="missing")
        claims = self._claims.get(ticket)
        if claims is None or now_s > claims.expires_at_s + self._leeway_s + grace_s:
            claims = verify(
                self._ring,
                ticket,
                cluster=self._cluster_id,
                now_s=now_s,
                grace_s=grace_s,
                leeway_s=self._leeway_s,
            )
            if len(ticket) <= REMEMBERED_CHARS_MAX:
                _remember(self._claims, ticket, claims)
        return claims

    def _mounted(self, claims: TicketClaims, target: BlockTarget) -> Mounted:
        if claims.mount_id != target.mount_id:
            raise PermissionDenied("the ticket is for another mount", reason="other_mount")
        mounted = self._book.find(target.mount_id)
        generation = mounted.mount.generation
        if claims.generation > generation:
            raise NotFound("this worker does not know this generation of the mount yet", mount_id=target.mount_id)
        if claims.generation < generation:
            raise PermissionDenied("the ticket is for an earlier mount of this name", reason="old_generation")
        return mounted


def check_reach(claims: TicketClaims, target: BlockTarget) -> None:
    """Whether the ticket reads this key. Raises ``PermissionDenied``, ``TicketOutOfPrefix``."""
    if "r" not in claims.rights:
        raise PermissionDenied("the ticket gives no right to read", reason="rights")
    prefix = claims.prefix.strip("/")
    if prefix and not f"{target.key}/".startswith(f"{prefix}/"):
        raise TicketOutOfPrefix("the key is outside the ticket's prefix", reason="prefix")


def derive(block_id: str | None, target: BlockTarget, mounted: Mounted, *, expires_at_s: float, version: int) -> Asked:
    """The block that ``target`` names under this mount, compared with the id in the request if there is one.

    Raises:
        InvalidRequest: the key is no path, there is no such block, or the id is another one.
    """
    mount = mounted.mount
    length = identity.block_length(target.size, mount.block_size, target.index)
    if length == 0:
        raise InvalidRequest("the file has no such block", index=target.index, size=target.size)
    version_id = identity.version_id(mounted.ufs_id, mounted.uri.full_key(target.key), target.fingerprint)
    derived = identity.block_id(version_id, mount.block_size, target.index)
    if block_id not in {None, derived}:
        raise InvalidRequest("the block id does not belong to this target under this mount", reason="block_id")
    return Asked(
        block_id=derived,
        target=target,
        mounted=mounted,
        geometry=Geometry(length),
        offset=target.index * mount.block_size,
        expires_at_s=expires_at_s,
        version=version,
    )


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    if len(memory) > REMEMBERED_MAX:
        memory.popitem(last=False)
