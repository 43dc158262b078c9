"""The under stores behind the mounts: opened at first use or ahead, shared, closed when their mount is gone and nobody
reads.

Every mount is checked against the allowed roots before its under store is opened, and before a ticket is given.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from forebay.contracts import Mount, UfsOptions
from forebay.errors import ConfigError, ForebayError, InvalidRequest, NotFound
from forebay.runtime import logs
from forebay.ufs import AllowedRoots, Ufs, UfsUri

GONE_MAX = 10_000
"""Removed mounts that are remembered, so that work still queued for one does not open it again."""

AHEAD_MAX = 64
"""Mounts whose under stores are opened before anybody asks."""

LOG = logs.get(__name__)

Opener = Callable[[UfsUri, UfsOptions], Awaitable[Ufs]]


@dataclass
class _Source:
    ufs: Ufs
    users: int = 0
    is_retired: bool = False


class Sources:
    """Opened under stores by mount id and generation. For one event loop; ``close`` at the end."""

    def __init__(self, opener: Opener, roots: AllowedRoots) -> None:
        self._opener = opener
        self._roots = roots
        self._allowed: set[tuple[str, int]] = set()
        self._opened: dict[tuple[str, int], _Source] = {}
        self._opening: dict[tuple[str, int], asyncio.Lock] = {}
        self._gone: OrderedDict[tuple[str, int], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._opened)

    async def permit(self, mount: Mount) -> None:
        """Passes if the source of ``mount`` is below an allowed root. Asked once for each mount.

        Raises:
            PermissionDenied: it is not.
        """
        name = (mount.mount_id, mount.generation)
        if name not in self._allowed:
            await self.check_root(UfsUri.parse(mount.ufs_uri), mount.options)
            self._allowed.add(name)

    async def check_root(self, uri: UfsUri, options: UfsOptions) -> None:
        """As ``permit``, for a source that is not mounted yet. Follows links of local paths, so not on the loop."""
        await asyncio.to_thread(self._roots.check, uri, options)

    @asynccontextmanager
    async def probe(self, uri: UfsUri, options: UfsOptions) -> AsyncIterator[Ufs]:
        """An allowed source for the length of the block, to see whether it can be mounted.

        Raises:
            PermissionDenied: below no allowed root. InvalidRequest: the options name what this master does not have.
        """
        await self.check_root(uri, options)
        ufs = await self._open(uri, options)
        try:
            yield ufs
        finally:
            await ufs.close()

    @asynccontextmanager
    async def use(self, mount: Mount) -> AsyncIterator[Ufs]:
        """The under store of ``mount``; it stays open at least for the length of the block.

        Raises:
            PermissionDenied, InvalidRequest: see ``probe``. What opening it raises.
        """
        source = await self._get(mount)
        source.users += 1
        try:
            yield source.ufs
        finally:
            source.users -= 1
            if source.is_retired and not source.users:
                await source.ufs.close()

    async def open_ahead(self, mounts: Sequence[Mount]) -> None:
        """Opens under stores, so that the first lookup below a mount does not wait for a client to be made. One that
        cannot be opened now is tried again by who needs it."""
        for mount in mounts[:AHEAD_MAX]:
            try:
                await self._get(mount)
            except ForebayError as e:
                LOG.warning("ufs_not_opened", mount_id=mount.mount_id, reason=e.message)

    async def retire(self, mount: Mount) -> None:
        """``mount`` is gone: its under store is closed now, or when its last user is through; nobody opens it again."""
        name = (mount.mount_id, mount.generation)
        self._gone[name] = None
        while len(self._gone) > GONE_MAX:
            self._gone.popitem(last=False)
        self._allowed.discard(name)
        async with self._one_at_a_time(name):
            source = self._opened.pop(name, None)
        self._opening.pop(name, None)
        if source is not None:
            source.is_retired = True
            if not source.users:
                await source.ufs.close()

    async def close(self) -> None:
        """Closes all."""
        while self._opened:
            _, source = self._opened.popitem()
            await source.ufs.close()

    async def _get(self, mount: Mount) -> _Source:
        name = (mount.mount_id, mount.generation)
        source = self._opened.get(name)
        if source is not None:
            return source
        async with self._one_at_a_time(name):
            if name in self._gone:
                raise NotFound("the mount was removed", mount_id=mount.mount_id)
            if name not in self._opened:
                await self.permit(mount)
                self._opened[name] = _Source(await self._open(UfsUri.parse(mount.ufs_uri), mount.options))
            return self._opened[name]

    def _one_at_a_time(self, name: tuple[str, int]) -> asyncio.Lock:
        """Opening one under store may take seconds (a credentials service); those of other mounts do not wait."""
        return self._opening.setdefault(name, asyncio.Lock())

    async def _open(self, uri: UfsUri, options: UfsOptions) -> Ufs:
        try:
            return await self._opener(uri, options)
        except ConfigError as e:
            raise InvalidRequest(f"the source cannot be opened: {e}", setting=e.setting) from e
