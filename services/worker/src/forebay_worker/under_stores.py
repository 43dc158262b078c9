"""Opened under stores by mount. Mounts are opened when they appear: an S3 client takes half a second of imports and
parsing, which the first reader of a cold mount would wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from forebay.contracts import UfsOptions
from forebay.errors import ForebayError, NotFound
from forebay.runtime import logs
from forebay.ufs import Ufs, UfsUri
from forebay_worker.mounts import MountBook, Mounted

Opener = Callable[[UfsUri, UfsOptions], Awaitable[Ufs]]
Name = tuple[str, int]


class UfsPool:
    """At most one for each mount of the book, which is asked again after every opening: a table can come meanwhile."""

    def __init__(self, book: MountBook, opener: Opener) -> None:
        self._book = book
        self._opener = opener
        self._opened: dict[Name, Ufs] = {}
        self._locks: dict[Name, asyncio.Lock] = {}
        self._seen: frozenset[Name] = frozenset()
        self._wanted: dict[Name, Mounted] = {}
        self._news = asyncio.Event()
        self._is_closed = False
        self._log = logs.get("forebay_worker.mounts")

    async def run(self) -> None:
        """Opens mounts that have appeared, for ever. One that cannot be opened now is tried again by who reads it."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._wanted:
                mounted = self._wanted.pop(next(iter(self._wanted)))
                try:
                    await self.get(mounted)
                except ForebayError as e:
                    self._log.warning("ufs_not_opened", mount_id=mounted.mount.mount_id, error=e.message)

    async def get(self, mounted: Mounted) -> Ufs:
        """The mount's under store, opened at its first use.

        Raises:
            NotFound: the mount is not in the table any more.
            ForebayError: what opening it says.
        """
        name = mounted.name
        ufs = self._opened.get(name)
        if ufs is not None:
            return ufs
        self._check_known(mounted)
        async with self._locks.setdefault(name, asyncio.Lock()):
            ufs = self._opened.get(name)
            return await self._open(mounted) if ufs is None else ufs

    async def _open(self, mounted: Mounted) -> Ufs:
        ufs = await self._opener(mounted.uri, mounted.mount.options)
        try:
            self._check_known(mounted)
        except NotFound:
            await ufs.close()
            raise
        self._opened[mounted.name] = ufs
        return ufs

    def _check_known(self, mounted: Mounted) -> None:
        if self._is_closed or not self._book.holds(mounted.name):
            raise NotFound("the mount is gone", mount_id=mounted.mount.mount_id)

    async def keep_known(self) -> None:
        """The book has another table: under stores of new mounts will be opened, those of mounts that are gone are
        closed; reads of them fail."""
        known = {} if self._is_closed else {mounted.name: mounted for mounted in self._book.all()}
        new = {name: mounted for name, mounted in known.items() if name not in self._seen}
        self._wanted = {name: mounted for name, mounted in self._wanted.items() if name in known} | new
        self._seen = frozenset(known)
        self._locks = {name: lock for name, lock in self._locks.items() if name in known}
        gone = [self._opened.pop(name) for name in list(self._opened) if name not in known]
        if new:
            self._news.set()
        for ufs in gone:
            await ufs.close()

    async def close(self) -> None:
        """Closes all, also what is being opened now."""
        self._is_closed = True
        await self.keep_known()
