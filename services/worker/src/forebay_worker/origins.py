"""Chooses where the bytes of a block would come from: its home, workers that may hold it, or the under store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial

from forebay.contracts import Member
from forebay.contracts.blocks import ByteRange, block_path
from forebay_worker.access import Asked
from forebay_worker.budget import Budget
from forebay_worker.passing import Passing
from forebay_worker.peers import BUFFERS_MAX, BlockClient, PeerCall, PeerSource
from forebay_worker.routing import Homes, ReadOptions, SecondReads, Upstream
from forebay_worker.sources import BlockSource, UfsSource
from forebay_worker.under_stores import UfsPool


@dataclass(frozen=True)
class Origin:
    """Where a read's bytes come from when they are not here.

    ``keeps``: a copy is kept although another worker is home (a replica that is read again). ``overflow`` is used
    instead of ``source`` when the policy here admits nothing: the second in ranking, who keeps the block instead.
    """

    source: BlockSource
    has_home_elsewhere: bool
    keeps: bool = False
    overflow: PeerSource | None = None


class Origins:
    """Sources of blocks. Nothing is opened before it is read."""

    def __init__(self, pool: UfsPool, homes: Homes, client: BlockClient, budget: Budget | None = None) -> None:
        self._pool = pool
        self._homes = homes
        self._client = client
        self._budget = budget
        self._passing = Passing()
        self._second_reads = SecondReads()
        self._buffers = asyncio.Semaphore(BUFFERS_MAX)

    def of(self, asked: Asked, part: ByteRange, options: ReadOptions, ticket: str) -> Origin:
        """Where to look, by this worker's map and by what peers did lately."""
        behind = self._under_store(asked)
        replicas = asked.mounted.mount.replicas
        way = self._homes.upstream(asked.block_id, replicas=replicas, is_hop=options.is_hop)
        if way.home is not None:
            source = self._peers(asked, options, ticket, behind, way.home)
            extents = asked.geometry.touched(part.start, part.stop)
            keeps = way.is_owner and self._second_reads.is_second(asked.block_id, extents)
            return Origin(source, has_home_elsewhere=True, keeps=keeps)
        overflow = self._peers(asked, options, ticket, behind, way.second) if way.second is not None else None
        return Origin(self._probed(asked, way, options, ticket, behind), has_home_elsewhere=False, overflow=overflow)

    def _probed(self, asked: Asked, way: Upstream, options: ReadOptions, ticket: str, behind: UfsSource) -> BlockSource:
        """The under store, behind workers that may hold the block and have not said otherwise."""
        probes = [m for m in way.probes if not self._homes.is_known_to_lack(m.member_id, asked.block_id)]
        if not probes:
            return behind
        return self._peers(asked, options, ticket, behind, *probes, only_if_cached=True, ahead=way.ahead)

    def _under_store(self, asked: Asked) -> UfsSource:
        target = asked.target
        return UfsSource(
            lambda: self._pool.get(asked.mounted),
            target.key,
            target.size,
            target.fingerprint,
            asked.offset,
            is_atomic=asked.mounted.uri.scheme == "s3",  # one GET is answered from one object
            lane=f"ufs:{target.mount_id}",
            admit=partial(self._budget.admit, target.mount_id) if self._budget is not None else None,
            share=partial(self._passing.read, (asked.block_id, target.mount_id, target.size)),
        )

    def _peers(
        self,
        asked: Asked,
        options: ReadOptions,
        ticket: str,
        behind: UfsSource,
        *members: Member,
        only_if_cached: bool = False,
        ahead: Member | None = None,
    ) -> PeerSource:
        path = block_path(asked.block_id, asked.target)
        calls = [
            PeerCall(m.member_id, m.tcp, path, ticket, options.read_type, only_if_cached, is_ahead=m is ahead)
            for m in members
        ]
        return PeerSource(self._client, calls, asked, behind, self._homes, buffers=self._buffers)
