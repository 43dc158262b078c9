"""Loads of a cluster with several masters: in ZooKeeper, run and changed by the leader alone, seen by all.

A term begins with a write of its own: once that is made, what the table was then is what the term goes on from, for a
leader of before can change nothing any more. So what the leader does not find in place later is what it wrote itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from forebay.contracts import decode_stored, encode
from forebay.contracts.loads import LoadStatus
from forebay.discovery import Ledger, Table
from forebay.discovery.terms import RECORD_BYTES_MAX
from forebay.errors import Conflict, InvalidRequest, NotReady
from forebay.runtime import logs

TABLE = "jobs"
TERM = "term"
"""Key of the record that each term begins with (loads' ids begin with ``load-``)."""

MESSAGE_CHARS_MAX = 4096

LOG = logs.get(__name__)


class ZnodeJobStore:
    """``JobStore`` over a ledger. ``ledger`` gives ``None`` until the election has begun."""

    def __init__(self, ledger: Callable[[], Ledger | None], leads: Callable[[], None]) -> None:
        self._ledger, self._leads = ledger, leads
        self._writing = asyncio.Lock()

    def check(self) -> None:
        """See ``JobStore.check``."""
        self._leads()

    async def begin(self) -> list[LoadStatus]:
        """See ``JobStore.begin``."""
        self.check()
        await self._commit({TERM: b"{}"})
        return self.shown() or []

    def shown(self) -> list[LoadStatus] | None:
        """The loads as last heard (one that this build cannot read is left out); ``None``: nothing was heard yet."""
        ledger = self._ledger()
        table = ledger.table(TABLE) if ledger is not None else None
        return parse(table) if table is not None else None

    async def changed(self, after: int, timeout_s: float) -> int:
        """The table's revision as soon as it is not ``after``, or after ``timeout_s``."""
        ledger = self._ledger()
        if ledger is None:
            raise NotReady("no election has begun")
        table = await ledger.changed(TABLE, after, timeout_s)
        return table.revision if table is not None else after

    async def put(self, status: LoadStatus) -> None:
        """See ``JobStore.put``; what a record has no room for is left out, which its message says then."""
        await self._commit({status.load_id: encode(fitting(status))})

    async def remove(self, load_id: str) -> None:
        """See ``JobStore.remove``."""
        await self._commit({load_id: None})

    async def _commit(self, changes: Mapping[str, bytes | None]) -> None:
        async with self._writing:
            ledger = self._ledger()
            table = ledger.table(TABLE) if ledger is not None else None
            if ledger is None or table is None:
                raise NotReady("the loads have not been read yet; try again")
            try:
                await ledger.commit(TABLE, changes, after=table.revision)
            except Conflict as e:
                raise NotReady("the loads have just changed; try again") from e


def parse(table: Table) -> list[LoadStatus]:
    """The loads of a table, in no order; what cannot be read is logged and left out."""
    found = []
    for key, data in table.records.items():
        try:
            found += [decode_stored(LoadStatus, data)] if key != TERM else []
        except InvalidRequest as e:
            LOG.error("load_not_read", load_id=key, reason=e.message)
    return found


def fitting(status: LoadStatus, limit: int = RECORD_BYTES_MAX) -> LoadStatus:
    """The load as one record takes it: first the names of missing blocks go, then workers' shares. Pure."""
    if len(encode(status)) <= limit:
        return status
    shares = status.plan.shares if status.plan is not None else ()
    for kept, held in _cuts(len(status.missing), len(shares)):
        said = f"{status.message[:MESSAGE_CHARS_MAX]} (stored with {kept} of {len(status.missing)} names of missing"
        shorter = msgspec.structs.replace(
            status,
            missing=status.missing[:kept],
            plan=status.plan and msgspec.structs.replace(status.plan, shares=shares[:held]),
            message=f"{said} blocks and {held} of {len(shares)} shares: a record has at most {limit} bytes)",
        )
        if len(encode(shorter)) <= limit:
            break
    return shorter


def _cuts(missing: int, shares: int) -> list[tuple[int, int]]:
    """Ever fewer of both, names first. Pure."""
    halves = [(missing >> n, shares) for n in range(missing.bit_length() + 1)]
    return halves + [(0, shares >> n) for n in range(1, shares.bit_length() + 1)]
