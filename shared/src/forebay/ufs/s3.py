"""S3 as an under store: aiobotocore lists and stats over clients kept open; data come by signed GETs of our own.

A botocore ``get_object`` costs about 3 ms of CPU; a signed GET on a connection of ours (``s3_wire``) a tenth of it, and
its body is lent out piece by piece as it came from the socket. What that client cannot do (a proxy, bodies in chunks)
goes over an aiohttp session.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
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
    Body,
    Wanted,
    error_of_reply,
    file_of_object,
    judge_data_reply,
    page_of_listing,
    wrong_region,
)
from forebay.ufs.s3_session import S3Session, deadline, tls_context, translated
from forebay.ufs.s3_wire import Chunked, Wire
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
        base = session.address.base
        self._origin = base.removesuffix(session.address.path)
        self._where = {"server.address": urlsplit(base).hostname or ""}
        self._proxy = _proxy(base)
        self._wire: Wire | None = None
        if self._proxy is None:
            self._wire = Wire(
                base,
                tls_context(session.ca_file) if base.startswith("https:") else None,
                connect_timeout_s=limits.connect_timeout_s,
                silence_timeout_s=limits.silence_timeout_s,
            )

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
        with self._meter.call("list", **self._where):
            reply = await self._list(prefix, directory, limit=min(limit, PAGE_NAMES_MAX), token=token)
            page = page_of_listing(reply, directory=directory, prefix=prefix, token=token)
        self._meter.skipped(page.skipped)
        return page

    async def stat(self, key: str) -> UfsEntry:
        """See ``Ufs``. Asks for the object and for keys below it at the same time."""
        with self._meter.call("stat", **self._where):
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
        """See ``Ufs``."""
        async with aclosing(self.lend(key, start, length, fingerprint=fingerprint, size=size)) as pieces:
            async for piece in pieces:
                yield bytes(piece)

    async def lend(
        self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None
    ) -> AsyncGenerator[bytes | memoryview, None]:
        """See ``Ufs``. ``If-Match`` goes out, and the answer's ETag is compared: some servers ignore the former."""
        wanted = Wanted(key, start, length, fingerprint, size)
        path = self._path(key)
        if not ETAG.fullmatch(fingerprint):
            raise StaleVersion("no object has such a version", key=key)
        if length == 0:
            return
        async with self._streams:
            with self._meter.stream(**self._where) as span:
                try:
                    async with aclosing(self._stream(wanted, path, span)) as pieces:
                        async for piece in pieces:
                            yield piece
                except RangeNotSatisfiable:
                    await self._refuse_if_changed(wanted)
                    raise

    async def take(self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None) -> bytes:
        """See ``TakesWhole``. One awaited call where ``lend`` is five generators deep: half of what a request costs."""
        wanted, data = Wanted(key, start, length, fingerprint, size), None
        path = self._path(key)
        if self._wire is not None and length and ETAG.fullmatch(fingerprint):
            async with self._streams:
                with self._meter.call("read", **self._where) as span:
                    data = await self._taken(self._wire, wanted, path, span)
        if data is None:  # for the other client, or an error to say
            async with aclosing(self.lend(key, start, length, fingerprint=fingerprint, size=size)) as pieces:
                data = b"".join([bytes(piece) async for piece in pieces])
        return data

    async def _taken(self, wire: Wire, wanted: Wanted, path: str, span: Span) -> bytes | None:
        """The wanted bytes; ``None`` if the answer comes in chunks."""
        headers = await self._headers(wanted, path)
        try:
            with self._translated(wanted.key):
                async with wire.get(path, headers, at_once=wanted.length) as reply:
                    body = await self._judge(wanted, span, reply.status, reply.headers, reply.start_of_body)
                    data = await reply.whole(body.skip + wanted.length)
        except Chunked:
            return None
        except RangeNotSatisfiable:
            await self._refuse_if_changed(wanted)
            raise
        if len(data) != body.skip + wanted.length:
            missing = body.skip + wanted.length - len(data)
            raise UfsUnavailable("the body ended early", key=wanted.key, missing_bytes=missing)
        self._meter.came_in(wanted.length)
        return data[body.skip :] if body.skip else data

    async def _headers(self, wanted: Wanted, path: str) -> dict[str, str]:
        """Of a GET of the wanted range; refuses if this under store was closed while credentials were renewed."""
        headers = {
            **await self._session.signed_headers(path),
            "range": f"bytes={wanted.start}-{wanted.start + wanted.length - 1}",
            "if-match": f'"{wanted.fingerprint}"',
            "accept-encoding": "identity",
        }
        self._refuse_if_closed()
        return headers

    async def close(self) -> None:
        """See ``Ufs``."""
        self._closed = True
        if self._wire is not None:
            self._wire.close()
        await self._data.close()
        await self._session.close()

    async def _stream(self, wanted: Wanted, path: str, span: Span) -> AsyncGenerator[bytes | memoryview, None]:
        headers = await self._headers(wanted, path)
        with self._translated(wanted.key):
            if self._wire is not None:
                try:
                    async with self._wire.get(path, headers) as reply:
                        body = await self._judge(wanted, span, reply.status, reply.headers, reply.start_of_body)
                        async with aclosing(
                            self._cut(reply.pieces(body.skip + wanted.length), body.skip, wanted)
                        ) as pieces:
                            async for piece in pieces:
                                yield piece
                    return
                except Chunked:
                    self._wire.close()
                    self._wire = None  # this server does so: it is asked by the other client from now on
            async with self._data.get(
                URL(self._origin + path, encoded=True), headers=headers, allow_redirects=False, proxy=self._proxy
            ) as response:
                body = await self._judge(wanted, span, response.status, response.headers, response.content.read)
                async with aclosing(
                    self._cut(_chunks(response.content, body.skip + wanted.length), body.skip, wanted)
                ) as pieces:
                    async for piece in pieces:
                        yield piece

    async def _judge(
        self,
        wanted: Wanted,
        span: Span,
        status: int,
        headers: Mapping[str, str],
        said: Callable[[int], Awaitable[bytes]],
    ) -> Body:
        """Where the wanted bytes are in the body of an answer; raises the error that it is otherwise."""
        span.set("http.request.method", "GET")
        span.set("http.response.status_code", status)
        if status not in {200, 206}:
            raise error_of_reply(wanted.key, status, headers, await said(ERROR_BODY_MAX_BYTES))
        return judge_data_reply(wanted, status, headers, self._limits.discard_max_bytes)

    async def _cut(
        self, pieces: AsyncGenerator[bytes | memoryview, None], skip: int, wanted: Wanted
    ) -> AsyncGenerator[bytes | memoryview, None]:
        """``wanted.length`` bytes after ``skip``, in the pieces that came: none is joined, one is cut."""
        left = wanted.length
        async with aclosing(pieces):
            async for piece in pieces:
                dropped = min(skip, len(piece))
                skip -= dropped
                if len(piece) > dropped:
                    left -= len(piece) - dropped
                    self._meter.came_in(len(piece) - dropped)
                    yield piece[dropped:] if dropped else piece
        if left:
            raise UfsUnavailable("the body ended early", key=wanted.key, missing_bytes=left)

    async def _refuse_if_changed(self, wanted: Wanted) -> None:
        """A 416 does not say whose size it judged: servers that ignore If-Match send it for a shorter new version."""
        file = await self._head(wanted.key)
        if file is None or file.fingerprint != wanted.fingerprint:
            raise StaleVersion("the object has changed", key=wanted.key)

    async def _list(self, prefix: str, key: str, *, limit: int, token: str | None = None) -> dict[str, Any]:
        self._refuse_if_closed()
        following = {} if token is None else {"ContinuationToken": token}
        async with deadline(self._limits.request_timeout_s):
            with self._meter.request("ListObjectsV2"), translated(key):
                reply: dict[str, Any] = await self._session.client.list_objects_v2(
                    Bucket=self._uri.root,
                    Prefix=prefix,
                    Delimiter="/",
                    MaxKeys=limit,
                    EncodingType="url",
                    **following,
                )
        self._check_region(reply)
        return reply

    async def _head(self, key: str) -> UfsFile | None:
        self._refuse_if_closed()
        full = self._object(key)
        try:
            async with deadline(self._limits.request_timeout_s):
                with self._meter.request("HeadObject"), translated(key):
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

    def _path(self, key: str) -> str:
        return f"{self._session.address.path}/{quote(self._object(key), safe='/~')}"

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
        except (aiohttp.ClientSSLError, ssl.SSLCertVerificationError):
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


async def _chunks(content: aiohttp.StreamReader, limit: int) -> AsyncGenerator[bytes | memoryview, None]:
    """A body as the socket gave it, at most ``limit`` bytes."""
    while limit:
        piece, _ = await content.readchunk()
        if not piece and content.at_eof():
            return
        yield piece[:limit]
        limit -= min(limit, len(piece))


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
