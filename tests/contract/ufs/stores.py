"""Four under stores behind one face: files, two real S3 servers, and the fake. Each test gets a root of its own."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import fsspec

from forebay.contracts import UfsOptions
from forebay.telemetry import Telemetry, quiet
from forebay.testing.s3 import ACCESS_KEY, SECRET_KEY, AwkwardS3, S3Admin, S3Server
from forebay.testing.ufs import MemoryUfs
from forebay.ufs import Credentials, Ufs, UfsLimits, UfsUri, open_ufs

CREDENTIALS = Credentials(ACCESS_KEY, SECRET_KEY)
BUCKET = "contract"
LIMITS = UfsLimits(streams_max=8, connect_timeout_s=2.0, silence_timeout_s=5.0, request_timeout_s=15.0)


class Store(Protocol):
    """Where a test puts its data, behind the back of the ``Ufs`` under test."""

    telemetry: Telemetry

    def put(self, key: str, body: bytes = b"") -> None:
        """A new version of ``key``."""

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        """Many at once."""

    def delete(self, key: str) -> None:
        """Takes it away."""

    def opened(self) -> AbstractAsyncContextManager[Ufs]:
        """The root of this test as a ``Ufs``."""


class FileStore:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.telemetry = quiet()
        self.folder = folder

    def put(self, key: str, body: bytes = b"") -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        # Replaced as a careful writer does it: a new file, renamed over the old one.
        new = path.with_name(f"{path.name[:200]}.new")
        new.write_bytes(body)
        os.utime(new, ns=(time.time_ns(), time.time_ns()))
        new.rename(path)

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        for key, body in objects.items():
            self.put(key, body)

    def delete(self, key: str) -> None:
        (self.folder / key).unlink()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ufs]:
        uri = UfsUri.parse(f"file://{self.folder}")
        ufs = await open_ufs(uri, UfsOptions(), telemetry=self.telemetry, limits=LIMITS)
        try:
            yield ufs
        finally:
            await ufs.close()


class S3Store:
    """A prefix in a bucket of a real S3 server."""

    def __init__(self, endpoint: str, admin: S3Admin) -> None:
        self.telemetry = quiet()
        self.endpoint = endpoint
        self.admin = admin
        self.prefix = f"run-{uuid.uuid4().hex[:12]}"

    def put(self, key: str, body: bytes = b"") -> None:
        self.admin.put(BUCKET, f"{self.prefix}/{key}", body)

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        self.admin.put_many(BUCKET, {f"{self.prefix}/{key}": body for key, body in objects.items()})

    def delete(self, key: str) -> None:
        self.admin.delete(BUCKET, f"{self.prefix}/{key}")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ufs]:
        options = UfsOptions(endpoint=self.endpoint, path_style=True)
        uri = UfsUri.parse(f"s3://{BUCKET}/{self.prefix}")
        ufs = await open_ufs(uri, options, telemetry=self.telemetry, credentials=CREDENTIALS, limits=LIMITS)
        try:
            yield ufs
        finally:
            await ufs.close()


class FakeStore:
    """The fake that the tests of other parts use: it must promise the same."""

    def __init__(self) -> None:
        self.telemetry = quiet()
        self._fake = MemoryUfs()

    def put(self, key: str, body: bytes = b"") -> None:
        self._fake.put(key, body)

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        for key, body in objects.items():
            self.put(key, body)

    def delete(self, key: str) -> None:
        del self._fake.files[key]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ufs]:
        yield self._fake


def faithful(server: S3Server) -> S3Store:
    """A store on SeaweedFS."""
    return S3Store(server.endpoint, server.admin)


class AwkwardStore(S3Store):
    """A folder that ``rclone serve s3`` shows: objects are put there as plain files (its own PUT is slow)."""

    def __init__(self, server: AwkwardS3) -> None:
        super().__init__(server.endpoint, server.admin)
        self._files = FileStore(server.root / BUCKET / self.prefix)

    def put(self, key: str, body: bytes = b"") -> None:
        self._files.put(key, body)

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        self._files.put_many(objects)

    def delete(self, key: str) -> None:
        self._files.delete(key)


class SystemStore:
    """A directory of fsspec's file system in memory, in this process."""

    def __init__(self, scheme: str = "memory") -> None:
        self.telemetry = quiet()
        self.uri = f"{scheme}://run-{uuid.uuid4().hex[:12]}"
        self._system, self._root = fsspec.core.url_to_fs(self.uri)

    def put(self, key: str, body: bytes = b"") -> None:
        path = f"{self._root}/{key}"
        if key.endswith("/"):
            self._system.makedirs(path.rstrip("/"), exist_ok=True)
        else:
            self._system.pipe_file(path, body)

    def put_many(self, objects: Mapping[str, bytes]) -> None:
        for key, body in objects.items():
            self.put(key, body)

    def delete(self, key: str) -> None:
        self._system.rm_file(f"{self._root}/{key}")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Ufs]:
        ufs = await open_ufs(UfsUri.parse(self.uri), UfsOptions(), telemetry=self.telemetry, limits=LIMITS)
        try:
            yield ufs
        finally:
            await ufs.close()
