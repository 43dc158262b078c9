"""A master among others: stands for election, follows the mount table, and while it leads writes what leaders write.

Settings own their mounts here, too: whoever begins to lead makes the table's mounts from settings its own. So masters
of one cluster have the same settings, and new ones count from the last restart on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from forebay.contracts import Member, MountRequest
from forebay.contracts.tickets import KeyRing
from forebay.discovery import Election, Ledger, Registry, RegistryUrl
from forebay.errors import CallerError, ForebayError, NotLeader
from forebay.runtime import logs
from forebay.telemetry import Telemetry
from forebay_master.mounts import Mounts
from forebay_master.znode_jobs import TABLE as JOBS
from forebay_master.znode_mounts import TABLE, ZnodeMountStore

TABLES = (TABLE, JOBS)
WAIT_S = 60.0
RETRY_S = 0.5
FOLLOW_RETRY_S = 1.0

LOG = logs.get(__name__)


class Leading:
    """This master's part in leading the cluster. ``begin`` when its address is known; ``close`` before the registry."""

    def __init__(self) -> None:
        self.election: Election | None = None

    def ledger(self) -> Ledger | None:
        """The tables; ``None`` before ``begin``."""
        return self.election.ledger if self.election is not None else None

    def is_leading(self) -> bool:
        """Whether this master leads, as far as it can know."""
        return self.election is not None and self.election.is_leading()

    def term(self) -> int | None:
        """The epoch that this master leads, as far as it can know; ``None`` while another does."""
        leader = self.election.leader() if self.election is not None else None
        return leader.epoch if leader is not None and self.is_leading() else None

    def check(self) -> None:
        """Raises ``NotLeader``, which says where the leader is: a change belongs there."""
        if self.is_leading():
            return
        leader = self.election.leader() if self.election is not None else None
        where = f"ask {leader.tcp}" if leader is not None else "none is known yet; try again"
        raise NotLeader(f"another master leads: {where}", leader=leader.tcp if leader is not None else None)

    def begin(self, registry: Registry, member: Member) -> None:
        """Stands for election."""
        self.election = registry.elect(member, tables=TABLES)

    async def close(self) -> None:
        """Makes room for another."""
        if self.election is not None:
            await self.election.close()


async def follow(mounts: Mounts) -> None:
    """Takes over what the leader wrote, for as long as the master lives."""
    while True:
        try:
            await mounts.follow()
        except ForebayError as e:
            LOG.error("mounts_not_followed", code=e.code, reason=e.message)
            await asyncio.sleep(FOLLOW_RETRY_S)


async def settle(leading: Leading, mounts: Mounts, store: ZnodeMountStore, requests: Sequence[MountRequest]) -> None:
    """At the beginning of each term of this master: its settings' mounts are the table's."""
    epoch = -1
    while leading.election is not None:
        leader = await leading.election.changed(epoch, WAIT_S)
        if leader is None:
            continue
        epoch = leader.epoch
        if leading.is_leading():
            await mounts.is_followed.wait()
            await _settle_once(leading, mounts, store, requests)


async def _settle_once(
    leading: Leading, mounts: Mounts, store: ZnodeMountStore, requests: Sequence[MountRequest]
) -> None:
    while leading.is_leading():
        try:
            await mounts.settle(requests)
            await store.settled()
            return
        except NotLeader:
            return
        except CallerError as e:  # what calls have mounted stands; the next term tries again
            LOG.error("settings_not_mounted", code=e.code, reason=e.message)
            await store.settled()
            return
        except ForebayError as e:
            LOG.warning("settings_wait", code=e.code, reason=e.message)
            await asyncio.sleep(RETRY_S)


async def write_maps(
    election: Election, url: RegistryUrl, *, cluster_id: str, telemetry: Telemetry, keys: KeyRing | None, down_s: float
) -> None:
    """Keeps the cluster map true while this master leads."""
    from forebay.discovery.zookeeper_election import ZooKeeperElection  # kazoo only where it is used
    from forebay.discovery.zookeeper_maps import ZooKeeperMapWriter

    assert isinstance(election, ZooKeeperElection)
    await ZooKeeperMapWriter(
        url.hosts,
        url.chroot,
        cluster_id=cluster_id,
        telemetry=telemetry,
        election=election,
        keys=keys,
        down_s=down_s,
        options=election.options,
    ).run()
