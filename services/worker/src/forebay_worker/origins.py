"""Chooses where the bytes of a block would come from: its home, or the under store."""

from __future__ import annotations

import asyncio

from forebay.contracts.blocks import block_path
from forebay_worker.access import Asked
from forebay_worker.mount_watch import UfsPool
from forebay_worker.peers import BUFFERS_MAX, BlockClient, HomeCall, HomeSource
from forebay_worker.routing import Homes, ReadOptions
from forebay_worker.sources import BlockSource, UfsSource


class Origins:
    """Sources of blocks. Nothing is opened before it is read."""

    def __init__(self, pool: UfsPool, homes: Homes, client: BlockClient) -> None:
        self._pool = pool
        self._homes = homes
        self._client = client
        self._buffers = asyncio.Semaphore(BUFFERS_MAX)

    def of(self, asked: Asked, options: ReadOptions, ticket: str) -> BlockSource:
        """The home's source if it is another worker and the request may still be forwarded."""
        target = asked.target
        ufs = UfsSource(
            lambda: self._pool.get(asked.mounted),
            target.key,
            target.size,
            target.fingerprint,
            asked.offset,
            is_atomic=asked.mounted.uri.scheme == "s3",  # one GET is answered from one object
        )
        home = None if options.is_hop else self._homes.elsewhere(asked.block_id)
        if home is None:
            return ufs
        name = home.member_id
        call = HomeCall(home.tcp, block_path(asked.block_id, target), ticket, options.read_type)
        return HomeSource(
            self._client, call, asked.geometry, ufs, lambda: self._homes.suspect(name), buffers=self._buffers
        )
