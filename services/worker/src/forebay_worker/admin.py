"""The worker's administration: ``GET`` and ``PATCH /v1/settings``, ``POST /v1/blocks:free``."""

from __future__ import annotations

from aiohttp import web

from forebay.contracts import FreeReply, FreeRequest, SettingsReply
from forebay.contracts.blocks import FREE_PATH, SETTINGS_PATH
from forebay.transport.app import read_json, read_record, record_response, require_admin
from forebay.transport.openapi import operation
from forebay_worker.keeping import Keeping


class AdminRoutes:
    """Routes over what can be changed while the worker runs. Changes are for administrators."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping

    def add_to(self, app: web.Application) -> None:
        """Registers the routes."""
        app.router.add_get(SETTINGS_PATH, self.settings, allow_head=False)
        app.router.add_patch(SETTINGS_PATH, self.change)
        app.router.add_post(FREE_PATH, self.free)

    @operation(gives=SettingsReply)
    async def settings(self, request: web.Request) -> web.Response:
        """What can be changed, and since when it is as it is."""
        return record_response(self._keeping.settings())

    @operation(gives=SettingsReply, is_admin=True)
    async def change(self, request: web.Request) -> web.Response:
        """All of a change, or nothing of it."""
        require_admin(request)
        return record_response(self._keeping.change(await read_json(request)))

    @operation(takes=FreeRequest, gives=FreeReply, is_admin=True)
    async def free(self, request: web.Request) -> web.Response:
        """Lets go of blocks."""
        require_admin(request)
        return record_response(await self._keeping.free(await read_record(request, FreeRequest)))
