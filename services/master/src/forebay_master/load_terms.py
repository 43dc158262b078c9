"""Loads among several masters: the leader runs them for its term, the others show them as they were last stored."""

from __future__ import annotations

import asyncio

from forebay.errors import ForebayError, NotLeader
from forebay.runtime import logs
from forebay_master.leading import Leading
from forebay_master.loads import Loads
from forebay_master.znode_jobs import ZnodeJobStore

LOOK_S = 0.5
"""How often this master asks itself whether it still leads: its own timer may have ended its term, which is no news."""

LOG = logs.get(__name__)


async def keep_terms(leading: Leading, loads: Loads, store: ZnodeJobStore) -> None:
    """For as long as the master lives. ``Loads.stand_down`` is the caller's in the end."""
    revision, term = -1, None
    while True:
        try:
            now = leading.term()
            if now != term:
                await loads.stand_down()
                term = None
            shown = store.shown()
            if now is not None and term is None:
                await loads.take_up()
                term = now
                LOG.info("loads_taken_up", epoch=term, running=loads.running)
            elif now is None and shown is not None:
                loads.show(shown)
            elif shown is not None:
                await loads.adopt(shown)
            revision = await store.changed(revision, LOOK_S)
        except NotLeader:
            await asyncio.sleep(LOOK_S)
        except ForebayError as e:
            LOG.warning("loads_wait", code=e.code, reason=e.message)
            await asyncio.sleep(LOOK_S)
