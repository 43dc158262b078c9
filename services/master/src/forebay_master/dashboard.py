"""The master's page at ``/``. Its three files lie in the package; nothing is fetched from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

from forebay.contracts.overview import OVERVIEW_PATH, OverviewReply
from forebay.transport.app import record_response
from forebay.transport.openapi import operation
from forebay_master.overview import Overview

FILES = {"/": "index.html", "/page/page.js": "page.js", "/page/page.css": "page.css"}
MEDIA = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


class DashboardRoutes:
    """The page's routes. They change nothing."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._files = {path: (files("forebay_master") / "page" / name).read_bytes() for path, name in FILES.items()}

    def add_to(self, app: web.Application) -> None:
        """Registers the routes."""
        for path in FILES:
            app.router.add_get(path, self.file)
        app.router.add_get(OVERVIEW_PATH, self.overview)

    @operation(media="text/html")
    async def file(self, request: web.Request) -> web.Response:
        """The page of the cluster, for a browser."""
        media = MEDIA[FILES[request.path].rpartition(".")[2]]
        return web.Response(body=self._files[request.path], content_type=media, charset="utf-8", headers=HEADERS)

    @operation(gives=OverviewReply)
    async def overview(self, request: web.Request) -> web.Response:
        """Members, tiers, mounts, reads of the last hour and recent errors of the whole cluster."""
        return record_response(self._overview.reply())
