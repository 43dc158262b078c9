"""The master's page at ``/``. Its three files lie in the package; nothing is fetched from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from aiohttp import web

from forebay.contracts.overview import OVERVIEW_PATH, OverviewReply
from forebay.transport.app import record_response
from forebay.transport.openapi import operation
from forebay_master.overview import Overview

FILES = ("index.html", "page.js", "page.css")
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
        self._files = {name: (files("forebay_master") / "page" / name).read_bytes() for name in FILES}

    def add_to(self, app: web.Application) -> None:
        """Registers the routes."""
        app.router.add_get("/", self.page)
        app.router.add_get("/page/page.js", self.script)
        app.router.add_get("/page/page.css", self.style)
        app.router.add_get(OVERVIEW_PATH, self.overview)

    @operation(media="text/html")
    async def page(self, request: web.Request) -> web.Response:
        """The page of the cluster, for a browser."""
        return self._file("index.html", "text/html")

    @operation(media="text/javascript")
    async def script(self, request: web.Request) -> web.Response:
        """The page's script."""
        return self._file("page.js", "text/javascript")

    @operation(media="text/css")
    async def style(self, request: web.Request) -> web.Response:
        """The page's colours and measures, light and dark."""
        return self._file("page.css", "text/css")

    @operation(gives=OverviewReply)
    async def overview(self, request: web.Request) -> web.Response:
        """Members, tiers, mounts, reads of the last hour and recent errors of the whole cluster."""
        return record_response(self._overview.reply())

    def _file(self, name: str, media: str) -> web.Response:
        return web.Response(body=self._files[name], content_type=media, charset="utf-8", headers=HEADERS)
