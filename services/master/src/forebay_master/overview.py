"""Asks the workers for their status now and then, and keeps the last hour's reads, for the master's page.

While somebody looks, all workers are asked every `WATCHED_S`, otherwise every `PERIOD_S`. A worker that does not answer
costs its own deadline; what it said last stays, with its age.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from forebay.contracts import ClusterMap, Member, StatusReply
from forebay.contracts.overview import MountView, OverviewReply, ReadSample
from forebay.errors import ForebayError
from forebay.runtime import Deadline
from forebay_master.gathering import Answer, answer_of, held_bytes, sample_of, troubles, worker_view
from forebay_master.status import MasterStatus

if TYPE_CHECKING:
    from forebay.transport import HttpClient

PERIOD_S = 10.0
WATCHED_S = 2.0
WATCHED_FOR_S = 15.0
ASKED_AT_ONCE = 8
ANSWER_S = 3.0
SAMPLES_MAX = 720


class Overview:
    """One master's view of all workers."""

    def __init__(
        self,
        cluster_map: Callable[[], ClusterMap | None],
        client: HttpClient,
        status: MasterStatus,
        *,
        member_id: str,
        cluster_id: str,
    ) -> None:
        self._cluster_map = cluster_map
        self._client = client
        self._status = status
        self._member_id = member_id
        self._cluster_id = cluster_id
        self._answers: dict[str, Answer] = {}
        self._samples: deque[ReadSample] = deque(maxlen=SAMPLES_MAX)
        self._asked_at_s = 0.0
        self._watched_until_s = 0.0
        self._looked = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._ask_all()
            watched = time.monotonic() < self._watched_until_s
            try:
                async with asyncio.timeout(WATCHED_S if watched else PERIOD_S):
                    await (asyncio.Event() if watched else self._looked).wait()
            except TimeoutError:
                pass
            self._looked.clear()

    def reply(self) -> OverviewReply:
        """``GET /v1/overview``; somebody looks, so workers are asked more often for a while."""
        if time.monotonic() >= self._watched_until_s:
            self._looked.set()
        self._watched_until_s = time.monotonic() + WATCHED_FOR_S
        now, known = time.time(), self._cluster_map()
        members = known.members if known else ()
        answers = list(self._answers.values())
        return OverviewReply(
            cluster_id=self._cluster_id,
            at_s=now,
            map_epoch=known.epoch if known else 0,
            members=members,
            workers=tuple(worker_view(m, self._answers.get(m.member_id), answers, now) for m in _workers(members)),
            mounts=self._mounts(members),
            samples=tuple(self._samples),
            troubles=tuple(troubles([*answers, answer_of(self._status.reply(), now, 0.0)])),
        )

    def _mounts(self, members: tuple[Member, ...]) -> tuple[MountView, ...]:
        held = held_bytes(self._answers.values())
        room = sum(tier.capacity_bytes for member in members for tier in member.tiers) or 1
        return tuple(
            MountView(
                mount_id=mount.mount_id,
                path=mount.path,
                source=mount.ufs_uri,
                names=counted.names if (counted := self._status.counts.get(mount.mount_id)) else 0,
                held_bytes=held.get(mount.mount_id, 0),
                room_share=min(1.0, held.get(mount.mount_id, 0) / room),
            )
            for mount in self._status.mounts.table.mounts
        )

    async def _ask_all(self) -> None:
        known = self._cluster_map()
        workers = _workers(known.members if known else ())
        at_once = asyncio.Semaphore(ASKED_AT_ONCE)

        async def ask(member: Member) -> None:
            async with at_once:
                answer = await self._ask(member)
            if answer is not None:
                answers[member.member_id] = answer

        here = {member.member_id for member in workers}
        before = self._answers
        answers = {member_id: answer for member_id, answer in before.items() if member_id in here}
        async with asyncio.TaskGroup() as group:
            for member in workers:
                group.create_task(ask(member), name=f"overview-{member.member_id}")
        now = time.time()
        if self._asked_at_s:
            self._samples.append(sample_of(before, answers, now, now - self._asked_at_s))
        self._answers, self._asked_at_s = answers, now

    async def _ask(self, member: Member) -> Answer | None:
        began = time.monotonic()
        try:
            status = await self._client.call(
                member.tcp, "/v1/status", None, StatusReply, deadline=Deadline.after(ANSWER_S), method="GET"
            )
        except ForebayError:
            return None  # its age says it
        return answer_of(status, time.time(), time.monotonic() - began)


def _workers(members: tuple[Member, ...]) -> list[Member]:
    return [member for member in members if member.role == "worker"]
