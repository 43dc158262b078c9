"""Every other source that fsspec knows, by its address: ``memory://``, ``http(s)://``, ``gs://``, ``abfs://``, ….

What fsspec calls a file system blocks or has a loop of its own, so each call runs on a thread of ours. Its caches of
listings are switched off: how old an answer may be is the mount's business. A version is named by what the file system
tells of a file (entity tag, checksum, time of change) together with its size; a file of which it tells none of these
cannot be told from its next version, and is left out.
"""

from __future__ import annotations

import asyncio
import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote, unquote

import fsspec
from aiohttp import ClientError, ClientResponseError

from forebay.contracts import UfsOptions
from forebay.errors import (
    ConfigError,
    ForebayError,
    NotFound,
    RangeNotSatisfiable,
    StaleVersion,
    UfsDenied,
    UfsError,
    UfsUnavailable,
)
from forebay.telemetry import Telemetry
from forebay.ufs.base import PAGE_NAMES_MAX, UfsDir, UfsEntry, UfsFile, UfsLimits, UfsPage
from forebay.ufs.names import check_key, is_file_name
from forebay.ufs.observe import UfsMeter
from forebay.ufs.uri import UfsUri

PIECE_BYTES = 4 << 20
"""One call of the file system."""

THREADS = 16
SNAPSHOTS_MAX = 4
"""Listings kept between their pages: fsspec gives a directory as a whole."""

TAGS = ("ETag", "etag", "md5Hash", "md5", "content_md5", "Content-MD5", "checksum", "sha1", "generation")
TIMES = ("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "modified", "created")
"""What file systems call the name of a version, and the time of its change."""

P = ParamSpec("P")
T = TypeVar("T")


class ForeignUfs:
    """``Ufs`` over a file system of fsspec."""

    def __init__(self, uri: UfsUri, system: Any, root: str, telemetry: Telemetry, limits: UfsLimits) -> None:
        self._uri = uri
        self._system = system
        self._root = root.rstrip("/")
        self._is_web = uri.scheme in {"http", "https"}
        self._limits = limits
        self._meter = UfsMeter(telemetry, uri.scheme)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ufs-fsspec")
        self._streams = asyncio.Semaphore(limits.streams_max)
        self._snapshots: OrderedDict[str, list[UfsEntry | None]] = OrderedDict()
        self._closed = False

    @staticmethod
    async def open(uri: UfsUri, options: UfsOptions, *, telemetry: Telemetry, limits: UfsLimits) -> ForeignUfs:
        """Makes the file system; nothing is read yet.

        Raises:
            ConfigError: fsspec knows no such scheme, or its package is not installed, or takes other options.
            UfsUnavailable: nobody answers where it lies.
        """
        try:
            system, root = await asyncio.to_thread(
                fsspec.core.url_to_fs, str(uri), **storage_options(uri.scheme, options)
            )
        except (ImportError, ValueError, TypeError) as e:
            raise ConfigError("source", f"fsspec cannot open {uri.scheme}://: {type(e).__name__}") from e
        except OSError as e:  # some connect at once
            raise UfsUnavailable(f"{uri.scheme}://{uri.root} cannot be reached", reason=str(e)) from e
        return ForeignUfs(uri, system, root, telemetry, limits)

    @property
    def uri(self) -> UfsUri:
        """See ``Ufs``."""
        return self._uri

    async def list_page(self, directory: str, *, token: str | None = None, limit: int = PAGE_NAMES_MAX) -> UfsPage:
        """See ``Ufs``."""
        check_key(directory)
        with self._meter.call("list"), _translated(directory):
            entries = self._snapshots.pop(directory, None) if token is not None else None
            if entries is None:
                entries = await self._within(self._limits.request_timeout_s, self._list, directory)
        self._snapshots[directory] = entries
        while len(self._snapshots) > SNAPSHOTS_MAX:
            self._snapshots.popitem(last=False)
        named = [entry for entry in entries if entry is not None]
        first = 0 if token is None else bisect_right(named, token, key=order_of)
        chosen = named[first : first + limit]
        skipped = len(entries) - len(named) if token is None else 0
        self._meter.skipped(skipped)
        more = first + limit < len(named)
        return UfsPage(tuple(chosen), order_of(chosen[-1]) if more else None, skipped=skipped)

    async def stat(self, key: str) -> UfsEntry:
        """See ``Ufs``."""
        check_key(key)
        if not key:
            return UfsDir("")
        with self._meter.call("stat"), _translated(key):
            return await self._within(self._limits.request_timeout_s, self._stat, key)

    async def read(
        self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None
    ) -> AsyncIterator[bytes]:
        """See ``Ufs``. The version is looked at before the first byte and again before each piece is handed out."""
        check_key(key)
        if length == 0:
            return
        async with self._streams:
            with self._meter.stream(), _translated(key):
                await self._check_version(key, fingerprint, size, start + length)
                at, end = start, start + length
                while at < end:
                    upto = min(at + PIECE_BYTES, end)
                    piece = await self._within(self._limits.silence_timeout_s, self._cat, key, at, upto)
                    if len(piece) != upto - at:
                        await self._check_version(key, fingerprint, size, end)
                        raise UfsUnavailable("the file ended early", key=key, missing_bytes=end - at - len(piece))
                    at = upto
                    await self._check_version(key, fingerprint, size, end)
                    self._meter.came_in(len(piece))
                    yield piece

    def lend(
        self, key: str, start: int, length: int, *, fingerprint: str, size: int | None = None
    ) -> AsyncIterator[bytes | memoryview]:
        """See ``Ufs``."""
        return self.read(key, start, length, fingerprint=fingerprint, size=size)

    async def close(self) -> None:
        """See ``Ufs``. A thread that hangs in a call is left to it."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _within(self, seconds: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise UfsUnavailable("this under store is closed")
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))

    async def _check_version(self, key: str, fingerprint: str, size: int | None, end: int) -> None:
        found = await self._within(self._limits.request_timeout_s, self._file, key)
        if found is None or found.fingerprint != fingerprint or (size is not None and size != found.size):
            raise StaleVersion("the file has changed", key=key)
        if end > found.size:
            raise RangeNotSatisfiable("the range ends behind the file", key=key, size=found.size)

    # -- on threads

    def _path(self, key: str) -> str:
        return f"{self._root}/{quote(key) if self._is_web else key}" if key else self._root or "/"

    def _cat(self, key: str, start: int, end: int) -> bytes:
        return bytes(self._system.cat_file(self._path(key), start=start, end=end))

    def _file(self, key: str) -> UfsFile | None:
        return file_of(key, self._system.info(self._path(key)))

    def _list(self, directory: str) -> list[UfsEntry | None]:
        self._system.invalidate_cache()
        path = self._path(directory)
        found = self._system.ls(f"{path}/" if self._is_web else path, detail=True)
        if len(found) == 1 and found[0].get("type") != "directory" and found[0]["name"].rstrip("/") == path:
            raise NotFound("not a directory", key=directory)
        entries = [self._entry(directory, info) for info in found]
        folders = {entry.key for entry in entries if isinstance(entry, UfsDir)}
        shown = [entry for entry in entries if not (isinstance(entry, UfsFile) and entry.key in folders)]
        return sorted(shown, key=lambda entry: "" if entry is None else order_of(entry))

    def _entry(self, directory: str, info: Mapping[str, Any]) -> UfsEntry | None:
        name = str(info["name"]).rstrip("/").rpartition("/")[2]
        name = unquote(name) if self._is_web else name
        if not is_file_name(name):
            return None
        key = f"{directory}/{name}" if directory else name
        if info.get("type") == "directory":
            return UfsDir(key)
        return self._file(key) if info.get("size") is None or version_of(info) is None else file_of(key, info)

    def _stat(self, key: str) -> UfsEntry:
        if self._is_web:  # a page of links is a file as well; only the listing above it tells
            parent = key.rpartition("/")[0]
            for entry in self._list(parent):
                if entry is not None and entry.key == key:
                    return entry
            raise NotFound("no such file or directory", key=key)
        info = self._system.info(self._path(key))
        if info.get("type") == "directory":
            return UfsDir(key)
        found = file_of(key, info)
        if found is None:
            raise UfsError("the file system does not tell one version of the file from another", key=key)
        return found


def order_of(entry: UfsEntry) -> str:
    """Where a name stands in a listing: a directory counts as ``name/``."""
    return entry.key + "/" if isinstance(entry, UfsDir) else entry.key


def storage_options(scheme: str, options: UfsOptions) -> dict[str, Any]:
    """What the file system is told: no caches, and where it is to be found."""
    given: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in {"http", "https"}:
        given["encoded"] = True
    if scheme in {"gs", "gcs", "s3a"} and options.endpoint:
        given["endpoint_url"] = options.endpoint
    if options.anonymous:
        given |= {"token": "anon"} if scheme in {"gs", "gcs"} else {"anon": True}
    return given


def version_of(info: Mapping[str, Any]) -> str | None:
    """What names the version of a file, if anything does."""
    said = [f"{name}={_spelled(info[name])}" for name in (*TAGS, *TIMES) if info.get(name) not in {None, ""}]
    return "\n".join(said) if said else None


def _spelled(value: object) -> object:
    """Times in one spelling: a listing and a single answer may have them as a number and as a ``datetime``."""
    if isinstance(value, datetime):
        return f"{value.timestamp():.6f}"
    return f"{value:.6f}" if isinstance(value, float) else value


def file_of(key: str, info: Mapping[str, Any]) -> UfsFile | None:
    """The file that ``info`` is of; ``None`` without a size, or without anything that names its version."""
    size, version = info.get("size"), version_of(info)
    if not isinstance(size, int) or size < 0 or version is None:
        return None
    fingerprint = hashlib.blake2b(f"{size}\n{version}".encode(), digest_size=16).hexdigest()
    return UfsFile(key, size, _mtime_ns(info), fingerprint)


def _mtime_ns(info: Mapping[str, Any]) -> int:
    for name in TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return int(value.timestamp()) * 1_000_000_000
        if isinstance(value, int | float):
            return int(value) * 1_000_000_000
    return 0


@contextmanager
def _translated(key: str) -> Iterator[None]:
    """The one door for what fsspec and the packages behind it raise."""
    try:
        yield
    except ForebayError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as e:
        raise NotFound("no such file or directory", key=key) from e
    except PermissionError as e:
        raise UfsDenied("the file system refuses", key=key) from e
    except ClientResponseError as e:
        if e.status in {401, 403}:
            raise UfsDenied("the server refuses", key=key, status=e.status) from e
        raise UfsUnavailable("the server failed", key=key, status=e.status) from e
    except (OSError, TimeoutError, ClientError) as e:
        raise UfsUnavailable(f"the source does not answer ({type(e).__name__})", key=key) from e
    except (ValueError, TypeError, LookupError, RuntimeError, AttributeError) as e:
        raise UfsError(f"the file system failed ({type(e).__name__})", key=key) from e
