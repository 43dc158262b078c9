"""What this worker says of itself to the cluster, as its operator and its tier directories have it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import forebay_worker
from forebay.contracts import Member, TierInfo
from forebay.contracts.records import MemberState
from forebay_worker.directory import TierDirectory
from forebay_worker.index import StoreIndex

AVAILABLE_UNIT = 64 << 20
"""Free bytes are announced in such steps: who chooses by them needs no more, and the map changes less often."""

GIB = 1 << 30


class Standing:
    """State and capacity weight of the worker, and how its tiers stand. ``capacity_weight``: the setting, if any."""

    def __init__(
        self, member_id: str, tiers: Sequence[TierDirectory], index: StoreIndex, capacity_weight: float | None
    ) -> None:
        self._member_id = member_id
        self._tiers = tuple(tiers)
        self._index = index
        self._set_weight = self._said_weight = capacity_weight
        self._state: MemberState = "live"
        self._changed = asyncio.Event()

    def drain(self, draining: bool) -> MemberState:
        """Wakes who waits in ``until_news``: it is to be announced."""
        self._state = "draining" if draining else "live"
        self._changed.set()
        return self._state

    def weigh(self, wanted: float | None) -> float:
        """As ``drain``; ``None``: the worker's own capacity weight again."""
        self._said_weight = self._set_weight if wanted is None else wanted
        self._changed.set()
        return self.capacity_weight

    @property
    def capacity_weight(self) -> float:
        """What an operator said, else the setting, else the capacity in GiB."""
        return self._said_weight if self._said_weight is not None else sum(self._sizes()) / GIB

    @property
    def succeeds(self) -> tuple[str, ...]:
        """Nonces of the last owners of this worker's tier directories, which are dead."""
        return tuple(tier.nonce_before for tier in self._tiers if tier.nonce_before is not None)

    def leaving_share(self) -> float:
        """Share of the tiers' bytes that were let go of and are not free yet."""
        capacity = sum(self._sizes())
        return self._index.leaving_bytes() / capacity if capacity else 0.0

    def in_service_share(self) -> float:
        """Share of the tiers' bytes whose directories do not err."""
        sizes = self._sizes()
        able = sum(size for number, size in enumerate(sizes) if self._index.is_in_service(number))
        return able / sum(sizes) if sum(sizes) else 1.0

    def available_bytes(self) -> int:
        """Free bytes of the tiers."""
        index, numbers = self._index, range(len(self._tiers))
        return sum(max(0, index.capacity(n) - index.used(n)) for n in numbers if index.is_in_service(n))

    def member(self, *, tcp: str, uds: str | None, serving_weight: float) -> Member:
        """This worker as the map shows it."""
        return Member(
            member_id=self._member_id,
            role="worker",
            tcp=tcp,
            uds=uds,
            capacity_weight=self.capacity_weight,
            serving_weight=serving_weight,
            available_bytes=self.available_bytes() // AVAILABLE_UNIT * AVAILABLE_UNIT,
            state=self._state,
            tiers=tuple(
                TierInfo(tier=tier.spec.tier, capacity_bytes=tier.spec.capacity_bytes, nonce=tier.nonce)
                for tier in self._tiers
            ),
            version=forebay_worker.__version__,
        )

    async def until_news(self, most_s: float) -> None:
        """Until an operator changed this worker's state, or ``most_s`` have passed."""
        try:
            async with asyncio.timeout(most_s):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    def _sizes(self) -> list[int]:
        return [tier.spec.capacity_bytes for tier in self._tiers]
