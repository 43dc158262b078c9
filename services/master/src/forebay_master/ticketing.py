"""Tickets: the right of one client to read below one mount, signed, for a limited time."""

from __future__ import annotations

from collections.abc import Callable

from forebay.contracts import TicketReply, TicketRequest
from forebay.contracts.tickets import KeyRing, TicketClaims, sign
from forebay.errors import NotFound
from forebay_master.namespace import MountTable, normalise
from forebay_master.observe import Meters, counting_errors
from forebay_master.sources import Sources

RIGHTS = "r"


class TicketOffice:
    """Signs tickets. ``table`` reads the mount table of now; ``clock`` is wall time."""

    def __init__(
        self,
        table: Callable[[], MountTable],
        sources: Sources,
        ring: KeyRing,
        meters: Meters,
        *,
        cluster_id: str,
        ttl_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._sources = sources
        self._ring = ring
        self._meters = meters
        self._cluster_id = cluster_id
        self._ttl_s = ttl_s
        self._clock = clock

    async def issue(self, request: TicketRequest) -> TicketReply:
        """A ticket for all of the mount that holds the path; whether the path is there is not asked.

        Raises:
            InvalidRequest: no normal path. NotFound: nothing is mounted there or above. PermissionDenied: the mount's
                source is not below the allowed roots (any more).
        """
        with counting_errors(self._meters.tickets):
            found = self._table().resolve(normalise(request.path))
            if found is None:
                raise NotFound("nothing is mounted there", path=request.path)
            mount, _ = found
            await self._sources.permit(mount)
            claims = TicketClaims(
                cluster=self._cluster_id,
                mount_id=mount.mount_id,
                generation=mount.generation,
                prefix="",
                client=request.client_id,
                rights=RIGHTS,
                expires_at_s=self._clock() + self._ttl_s,
            )
            self._meters.tickets.add(1, "issued")
            return TicketReply(ticket=sign(self._ring, claims), mount=mount, expires_at_s=claims.expires_at_s)
