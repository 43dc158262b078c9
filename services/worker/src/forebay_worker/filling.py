"""``POST /v1/blocks:fill``: many blocks in one request, for who wants them here and does not read them now."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context

from aiohttp import web

from forebay.contracts import BlockTarget, FillFailure, FillReply, FillRequest
from forebay.contracts.blocks import FILL_PATH, TICKET_HEADER, ByteRange
from forebay.errors import ForebayError, Overloaded, Unauthenticated
from forebay.transport.app import read_record, record_response
from forebay.transport.openapi import operation
from forebay_worker.access import Asked
from forebay_worker.entrance import Entrance
from forebay_worker.fill import Filler, Filling
from forebay_worker.origins import Origins
from forebay_worker.routing import ReadOptions

REQUESTS_MAX = 16
"""Requests being worked on."""

OPTIONS = ReadOptions(read_type="CACHE", is_hop=True)
"""This worker is the one that shall have them: it asks former homes and the under store, never another home."""


class FillRoutes:
    """The route. ``on_asked`` hears of every block that is asked for."""

    def __init__(self, entrance: Entrance, origins: Origins, filler: Filler, on_asked: Callable[[Asked], None]) -> None:
        self._entrance = entrance
        self._origins = origins
        self._filler = filler
        self._on_asked = on_asked
        self.in_flight = 0

    def add_to(self, app: web.Application) -> None:
        """Registers it."""
        app.router.add_post(FILL_PATH, self.fill)

    @operation(takes=FillRequest, gives=FillReply, headers={TICKET_HEADER: "the ticket of one mount"})
    async def fill(self, request: web.Request) -> web.Response:
        """Has these blocks here, and answers when they are."""
        if self.in_flight >= REQUESTS_MAX:
            raise Overloaded("this worker works on as many requests to fill as it may", limit=REQUESTS_MAX)
        self.in_flight += 1
        try:
            asked = await read_record(request, FillRequest)
            return record_response(await self._answer(asked, request.headers.get(TICKET_HEADER, "")))
        finally:
            self.in_flight -= 1

    async def _answer(self, asked: FillRequest, ticket: str) -> FillReply:
        """All begin at once and take their turns in the queue; so they end about in order."""
        begun: list[tuple[int, Filling]] = []
        failed: list[FillFailure] = []
        context = copy_context()
        for position, target in enumerate(asked.targets):
            try:
                filling = await self._begin(target, ticket, context)
            except Unauthenticated:  # the ticket's fault, not the target's
                raise
            except ForebayError as e:
                failed.append(FillFailure(position=position, code=e.code, message=e.message))
            else:
                if filling is not None:
                    begun.append((position, filling))
        for position, filling in begun:
            try:
                await self._filler.finished(filling)
            except ForebayError as e:
                failed.append(FillFailure(position=position, code=e.code, message=e.message))
        return FillReply(complete=len(asked.targets) - len(failed), failed=tuple(failed))

    async def _begin(self, target: BlockTarget, ticket: str, context: Context) -> Filling | None:
        asked = await self._entrance.check_target(target, ticket)
        self._on_asked(asked)
        origin = self._origins.of(asked, ByteRange(0, 1), OPTIONS, ticket)
        return await self._filler.begin(asked, origin.source, context)
