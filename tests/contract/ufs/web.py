"""A folder behind plain HTTP: pages of links, entity tags, ranges. What a data set on a web server looks like."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, unquote, urlsplit

from forebay.contracts import UfsOptions
from forebay.ufs import Ufs, UfsUri, open_ufs
from tests.contract.ufs.stores import LIMITS, FileStore


class WebStore(FileStore):
    """``with WebStore(folder) as store``: the folder, read through a server of this process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)

        class Handler(_Handler):
            root = folder

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> WebStore:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ufs]:
        ufs = await open_ufs(UfsUri.parse(self.uri), UfsOptions(), telemetry=self.telemetry, limits=LIMITS)
        try:
            yield ufs
        finally:
            await ufs.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = Path()

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:  # the base class's name for it
        """Silent."""

    def _answer(self, *, with_body: bool) -> None:
        path = self.root / unquote(urlsplit(self.path).path).lstrip("/")
        if path.is_dir():
            names = sorted(each.name + ("/" if each.is_dir() else "") for each in path.iterdir())
            links = "".join(f'<a href="{escape(quote(name))}">x</a>\n' for name in names)
            self._send(200, links.encode(), {"Content-Type": "text/html"}, with_body=with_body)
        elif path.is_file():
            self._file(path.read_bytes(), with_body=with_body)
        else:
            self._send(404, b"", {}, with_body=with_body)

    def _file(self, body: bytes, *, with_body: bool) -> None:
        headers = {"ETag": f'"{hashlib.md5(body).hexdigest()}"', "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range", "")
        if not wanted:
            return self._send(200, body, headers, with_body=with_body)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
        return self._send(206, body[start : end + 1], headers, with_body=with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)
