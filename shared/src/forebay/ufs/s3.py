"""S3 as an under store: aiobotocore lists and stats over clients kept open; data come by signed GETs of our own.

A botocore ``get_object`` costs about 3 ms of CPU; a signed GET on an aiohttp session a fraction of it, and its body is
handed on piece by piece as it came from the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from forebay.contracts import UfsOptions
from forebay.errors import NotFound, RangeNotSatisfiable, StaleVersion, UfsError, UfsUnavailable
from forebay.telemetry import Span, Telemetry
from forebay.ufs.base import PAGE_NAMES_MAX, Credentials, UfsDir, UfsEntry, UfsFile, UfsLimits, UfsPage
from forebay.ufs.observe import UfsMeter
from forebay.ufs.s3_reply import (
    ETAG,
    Wanted,
    error_of_reply,
    file_of_object,
    judge_data_reply,
    page_of_listing,
    wrong_region,
)
from forebay.ufs.s3_session import S3Session, deadline, tls_context, translated
from forebay.ufs.uri import UfsUri

READ_BUFFER_BYTES = 1 << 20
"""Per stream, what aiohttp holds before it stops reading the socket (it goes up to twice this)."""

OBJECT_KEY_BYTES_MAX = 1024
"""S3's own bound."""

ERROR_BODY_MAX_BYTES = 16 << 10
IDLE_CONNECTION_S = 30.0


class S3Ufs:
    """``Ufs`` over a bucket and prefix."""

    def __init__(
        self, uri: UfsUri, session: S3Session, data: aiohttp.ClientSession, meter: UfsMeter, limits: UfsLimits
    ) -> None:
        self._uri = uri
        self._session = session
        self._data = data
        self._meter = meter
        self._limits = limits
        self._streams = asyncio.Semaphore(limits.streams_max)
        self._closed = False
        self._proxy = _proxy(session.address.base)

    @staticmethod
    async def open(
        uri: UfsUri, options: UfsOptions, *, telemetry: Telemetry, credentials: Credentials | None, limits: UfsLimits
    ) -> S3Ufs:
        """Finds credentials and address; asks the bucket nothing yet. Raises as ``open_ufs`` says."""
        async with deadline(limits.request_timeout_s):
            session = await S3Session.open(uri.root, options, credentials=credentials, limits=limits)
        data = _data_session(session.ca_file, limits)
        return S3Ufs(uri, session, data, UfsMeter(telemetry, "s3"), limits)

    @property
    def uri(self) -> UfsUri:
        """See ``Ufs``."""
        return self._uri

    async def list_page(self, directory: str, *, token: str | None = None, limit: int = PAGE_NAMES_MAX) -> UfsPage:
        """See ``Ufs``."""
        prefix = self._prefix(directory)
        with self._meter.call("list", **self._where()):
            reply = await self._list(prefix, directory, limit=min(limit, PAGE_NAMES_MAX), token=token)
            page = page_of_listing(reply, directory=directory, prefix=prefix, token=token)
        self._meter.skipped(page.skipped)
        return page

    async def stat(self, key: str) -> UfsEntry:
        """See ``Ufs``. Asks for the object and for keys below it at the same time."""
        with self._meter.call("stat", **self._where()):
            # The root itself is never an object, even if one has its name.
            head = self._head(key) if key else _nothing()
            file, is_directory = await _both(head, self._has_keys_below(key))
        if is_directory:
            return UfsDir(key)
        if file is None:
            raise NotFound("no such object or directory", key=key)
        return file

    async def read(
        self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None
    ) -> AsyncIterator[bytes]:
        """See ``Ufs``. ``If-Match`` goes out, and the answer's ETag is compared: some servers ignore the former."""
        wanted = Wanted(key, start, length, fingerprint, size)
        url = self._url(key)
        if not ETAG.fullmatch(fingerprint):
            raise StaleVersion("no object has such a version", key=key)
        if length == 0:
            return
        async with self._streams:
            with self._meter.stream(**self._where()) as span:
                try:
                    async with aclosing(self._stream(wanted, url, span)) as pieces:
                        async for piece in pieces:
                            yield piece
                except RangeNotSatisfiable:
                    await self._refuse_if_changed(wanted)
                    raise

    async def close(self) -> None:
        """See ``Ufs``."""
        self._closed = True
        await self._data.close()
        await self._session.close()

    async def _stream(self, wanted: Wanted, url: str, span: Span) -> AsyncGenerator[bytes, None]:
        headers = {
            "Range": f"bytes={wanted.start}-{wanted.start + wanted.length - 1}",
            "If-Match": f'"{wanted.fingerprint}"',
            "Accept-Encoding": "identity",
        }
        signed = await self._session.signed_headers(url, headers)
        self._refuse_if_closed()
        with self._translated(wanted.key):
            async with self._data.get(
                URL(url, encoded=True), headers=signed, allow_redirects=False, proxy=self._proxy
            ) as response:
                span.set("http.response.status_code", response.status)
                if response.status not in {200, 206}:
                    said = await response.content.read(ERROR_BODY_MAX_BYTES)
                    raise error_of_reply(wanted.key, response.status, response.headers, said)
                body = judge_data_reply(wanted, response.status, response.headers, self._limits.discard_max_bytes)
                async with aclosing(_cut(response.content, body.skip, wanted)) as pieces:
                    async for piece in pieces:
                        self._meter.came_in(len(piece))
                        yield piece

    async def _refuse_if_changed(self, wanted: Wanted) -> None:
        """A 416 does not say whose size it judged: servers that ignore If-Match send it for a shorter new version."""
        file = await self._head(wanted.key)
        if file is None or file.fingerprint != wanted.fingerprint:
            raise StaleVersion("the object has changed", key=wanted.key)

    async def _list(self, prefix: str, key: str, *, limit: int, token: str | None = None) -> dict[str, Any]:
        self._refuse_if_closed()
        following = {} if token is None else {"ContinuationToken": token}
        async with deadline(self._limits.request_timeout_s):
            with translated(key):
                reply: dict[str, Any] = await self._session.client.list_objects_v2(
                    Bucket=self._uri.root, Prefix=prefix, Delimiter="/", MaxKeys=limit, **following
                )
        self._check_region(reply)
        return reply

    async def _head(self, key: str) -> UfsFile | None:
        self._refuse_if_closed()
        full = self._object(key)
        try:
            async with deadline(self._limits.request_timeout_s):
                with translated(key):
                    reply = await self._session.client.head_object(Bucket=self._uri.root, Key=full)
        except NotFound:
            return None
        self._check_region(reply)
        file = file_of_object(key, reply.get("ContentLength"), reply)
        if file is None:
            raise UfsError("the server does not tell the object's size and ETag", key=key)
        return file

    async def _has_keys_below(self, key: str) -> bool:
        prefix = self._prefix(key)
        reply = await self._list(prefix, key, limit=1)
        return not prefix or bool(reply.get("Contents") or reply.get("CommonPrefixes"))

    def _check_region(self, reply: dict[str, Any]) -> None:
        """botocore follows a bucket into its region by itself; data GETs would not, so the mount must name it."""
        region = reply["ResponseMetadata"].get("HTTPHeaders", {}).get("x-amz-bucket-region")
        if region and region != self._session.address.region:
            raise wrong_region(region, key=self._uri.root)

    def _prefix(self, directory: str) -> str:
        full = self._uri.full_key(directory)
        return f"{full}/" if full else ""

    def _url(self, key: str) -> str:
        return f"{self._session.address.base}/{quote(self._object(key), safe='/~')}"

    def _object(self, key: str) -> str:
        full = self._uri.full_key(key)
        if len(full.encode()) > OBJECT_KEY_BYTES_MAX:
            raise NotFound("no object has so long a name", key=key)
        return full

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """The one door for aiohttp's exceptions. They are not chained: some hold the signed request."""
        try:
            yield
        except aiohttp.ClientSSLError:
            raise UfsError("the server's certificate is not trusted; set the mount's CA file", key=key) from None
        except (aiohttp.ClientError, OSError) as e:  # TimeoutError is an OSError
            reason = type(e).__name__
            raise UfsUnavailable(f"the S3 server cannot be reached or stopped sending ({reason})", key=key) from None
        except RuntimeError:  # aiohttp's word for a session that was closed under it
            self._refuse_if_closed()
            raise

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise UfsUnavailable("this under store is closed")

    def _where(self) -> dict[str, str]:
        return {"server.address": urlsplit(self._session.address.base).hostname or ""}


def _data_session(ca_file: str | None, limits: UfsLimits) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=limits.streams_max, keepalive_timeout=IDLE_CONNECTION_S, ssl=tls_context(ca_file)
    )
    silence = aiohttp.ClientTimeout(
        total=None, sock_connect=limits.connect_timeout_s, sock_read=limits.silence_timeout_s
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=silence,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_BUFFER_BYTES,
    )


async def _cut(content: aiohttp.StreamReader, skip: int, wanted: Wanted) -> AsyncGenerator[bytes, None]:
    """``wanted.length`` bytes after ``skip``, in the pieces the socket gave: none is joined, at most two are cut."""
    left = wanted.length
    while left:
        piece, _ = await content.readchunk()
        if not piece and content.at_eof():
            raise UfsUnavailable("the body ended early", key=wanted.key, missing_bytes=left)
        if skip:
            dropped = min(skip, len(piece))
            skip -= dropped
            piece = piece[dropped:]
        if len(piece) > left:
            piece = piece[:left]
        if piece:
            left -= len(piece)
            yield piece


async def _nothing() -> None:
    """Where there is nothing to ask."""


async def _both(head: Awaitable[UfsFile | None], below: Awaitable[bool]) -> tuple[UfsFile | None, bool]:
    """Runs two requests side by side and waits for both; the first one's error counts."""
    file, is_directory = await asyncio.gather(head, below, return_exceptions=True)
    if isinstance(file, BaseException):
        raise file
    if isinstance(is_directory, BaseException):
        raise is_directory
    return file, is_directory


def _proxy(base: str) -> str | None:
    """The environment's proxy for that address, as botocore's own requests use it."""
    parts = urlsplit(base)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
