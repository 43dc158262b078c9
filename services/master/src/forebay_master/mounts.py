"""The mount table as a running part: checked changes, stored before anyone sees them, and news for those who wait.

Mounts that the settings give belong to the settings: a start with others changes or removes them. Mounts made by calls
stay until a call removes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from forebay.contracts import Mount, MountRequest, MountsReply
from forebay.errors import Conflict, ForebayError, NotFound, NotReady, Overloaded
from forebay.runtime import Deadline, Supervisor, logs
from forebay.ufs import UfsFile, UfsUri, check_key, check_listable, explained
from forebay_master.flights import to_the_end
from forebay_master.mount_rules import changed_request, check_new, check_read_only
from forebay_master.mount_store import MountStore
from forebay_master.namespace import MountTable, mount_id_of, normalise
from forebay_master.records import MountOrigin
from forebay_master.sources import Sources

PROBE_S = 30.0
"""How long a source may take to show that it is there."""

WAITERS_MAX = 10_000
"""Long polls for the mount table at one time."""

LOG = logs.get(__name__)


class Mounts:
    """The mount table of one master. For one event loop; ``load`` first.

    ``on_gone`` is told after a mount, or a generation of one, has left the table, ``on_change`` of the old and the
    new table, each time it becomes another.
    """

    def __init__(
        self,
        store: MountStore,
        sources: Sources,
        supervisor: Supervisor,
        cluster_id: str,
        *,
        on_gone: Callable[[], None] = lambda: None,
        on_change: Callable[[MountTable, MountTable], None] = lambda old, new: None,
    ) -> None:
        self._store = store
        self._sources = sources
        self._supervisor = supervisor
        self._cluster_id = cluster_id
        self._on_gone = on_gone
        self._on_change = on_change
        self._changing = asyncio.Lock()
        self._news = asyncio.Event()
        self._is_closed = False
        self.is_followed = asyncio.Event()
        self._origins: dict[str, MountOrigin] = {}
        self.table = MountTable()
        self.revision = 0
        self.waiting = 0

    async def follow(self) -> None:
        """Takes over one change that another master made; the first time, the table as it is."""
        await self._store.wait(self.revision)
        async with self._changing:
            stored = await self._store.load()  # a change of our own may have come between
            staying = {(mount.mount_id, mount.generation) for mount in stored.mounts}
            gone = [mount for mount in self.table.mounts if (mount.mount_id, mount.generation) not in staying]
            self._origins = dict(stored.origins)
            if stored.revision != self.revision or stored.mounts != self.table.mounts:
                self._publish(MountTable(stored.mounts), stored.revision)
                LOG.info("mounts_followed", revision=stored.revision, mounts=len(stored.mounts))
            self.is_followed.set()
            for mount in gone:
                await self._gone(mount)

    async def load(self) -> None:
        """Takes up the stored table."""
        stored = await self._store.load()
        self.table, self.revision = MountTable(stored.mounts), stored.revision
        self._origins = dict(stored.origins)

    def reply(self) -> MountsReply:
        """The table as it travels."""
        return MountsReply(cluster_id=self._cluster_id, revision=self.revision, mounts=self.table.mounts)

    async def changed(self, after: int, wait_s: float) -> MountsReply:
        """The table as soon as its revision is not ``after``, or as it is after ``wait_s``.

        Raises:
            Overloaded: too many wait.
        """
        if self.waiting >= WAITERS_MAX:
            raise Overloaded("too many wait for the mount table; try again", limit=WAITERS_MAX)
        deadline = Deadline.after(wait_s)
        self.waiting += 1
        try:
            while self.revision == after and not self._is_closed and not deadline.expired:
                try:
                    await asyncio.wait_for(self._news.wait(), deadline.remaining_s())
                except TimeoutError:
                    break
        finally:
            self.waiting -= 1
        return self.reply()

    async def mount(self, request: MountRequest) -> tuple[Mount, bool]:
        """Mounts a source by a call; the mount, and whether it is new (the same request again changes nothing).

        Raises:
            InvalidRequest: no normal path, no source address, or options that this master cannot serve.
            PermissionDenied: below no allowed root. NotFound, UfsDenied, UfsUnavailable: the source is missing, may
                not be listed, does not answer. Conflict: see ``mount_rules.check_new``; or an outer mount has
                something there already (``not_empty``). TooLarge: the table is full. NotLeader: another master makes
                changes.
        """
        self._store.check()
        wanted = canonical(request)
        standing = self.table.at(wanted.path)
        if standing is not None and _is_as_wanted(standing, wanted):
            return standing, False
        check_new(self.table, wanted)
        await self.probe(wanted)
        await self._check_empty(wanted)
        return await to_the_end(self._supervisor, "mount", partial(self._mount, wanted))

    async def change(self, mount_id: str, changes: object) -> Mount:
        """Changes options of a mount (a JSON object of them); it is a new generation then.

        Raises:
            InvalidRequest: see ``mount_rules.changed_request``. NotFound: there is no such mount. Conflict: the
                settings give it; a restart would change it back.
        """
        self._store.check()
        return await to_the_end(self._supervisor, "change", partial(self._change, mount_id, changes))

    async def unmount(self, mount_id: str) -> Mount:
        """Removes a mount by a call.

        Raises:
            NotFound: there is no such mount. Conflict: the settings give it; a restart would bring it back.
        """
        self._store.check()
        return await to_the_end(self._supervisor, "unmount", partial(self._unmount, mount_id))

    async def settle(self, requests: Sequence[MountRequest]) -> None:
        """Makes the mounts that the settings give exactly ``requests`` (each ``canonical`` and probed before).

        Raises:
            Conflict: a path that a mount made by a call has. TooLarge: too many.
        """
        paths = {request.path for request in requests}
        async with self._changing:
            for mount in self.table.mounts:
                if self._origins[mount.mount_id] == "settings" and mount.path not in paths:
                    LOG.info("mount_no_longer_in_settings", path=mount.path, mount_id=mount.mount_id)
                    await self._remove(mount)
            for request in requests:
                await self._settle_one(request)

    async def probe(self, request: MountRequest) -> None:
        """Whether the source is allowed, there, and may be listed. Raises as ``mount`` does."""
        uri = UfsUri.parse(request.ufs_uri)
        with explained(uri, request.options):
            async with Deadline.after(PROBE_S).timeout(), self._sources.probe(uri, request.options) as ufs:
                await check_listable(ufs, request.options)

    def knows(self, request: MountRequest) -> bool:
        """Whether exactly this is mounted already."""
        standing = self.table.at(request.path)
        return standing is not None and _is_as_wanted(standing, request)

    def close(self) -> None:
        """Nobody waits any more, so that the server can drain."""
        self._is_closed = True
        self._tell()

    def validate(self) -> None:
        """Checks the table's invariants, and that each mount has an origin and at rest nobody waits."""
        self.table.validate()
        assert set(self._origins) == {mount.mount_id for mount in self.table.mounts}
        assert self.waiting == 0

    async def _mount(self, wanted: MountRequest) -> tuple[Mount, bool]:
        async with self._changing:
            standing = self.table.at(wanted.path)
            if standing is not None and _is_as_wanted(standing, wanted):
                return standing, False
            check_new(self.table, wanted)
            return await self._put(wanted, "api"), True

    async def _unmount(self, mount_id: str) -> Mount:
        async with self._changing:
            mount = self._changeable(mount_id)
            await self._remove(mount)
            return mount

    async def _change(self, mount_id: str, changes: object) -> Mount:
        async with self._changing:
            mount = self._changeable(mount_id)
            wanted = changed_request(mount, changes)
            if _is_as_wanted(mount, wanted):
                return mount
            return await self._put(wanted, "api", instead_of=mount)

    def _changeable(self, mount_id: str) -> Mount:
        mount = next((mount for mount in self.table.mounts if mount.mount_id == mount_id), None)
        if mount is None:
            raise NotFound("no such mount", mount_id=mount_id)
        if self._origins[mount_id] == "settings":
            raise Conflict(
                "the master's settings give this mount; change them", reason="of_settings", mount_id=mount_id
            )
        return mount

    async def _check_empty(self, wanted: MountRequest) -> None:
        """A mount hides what an outer one has under its name, so there must be nothing but an empty directory."""
        place = self.table.place(wanted.path)
        if place.mount is None or place.is_given:
            return
        try:
            async with Deadline.after(PROBE_S).timeout(), self._sources.use(place.mount) as ufs:
                found = await ufs.stat(place.key)
                is_free = not isinstance(found, UfsFile) and not (await ufs.list_page(place.key, limit=1)).entries
        except NotFound:
            return
        if not is_free:
            raise Conflict(
                f"{place.mount.path} has a file or a folder with names there, which the mount would hide",
                reason="not_empty",
                path=wanted.path,
                mount_id=place.mount.mount_id,
            )

    async def _settle_one(self, request: MountRequest) -> None:
        standing = self.table.at(request.path)
        if standing is None:
            await self._put(request, "settings")
        elif _is_as_wanted(standing, request):
            await self._store.set_origin(standing.mount_id, "settings")
            self._origins[standing.mount_id] = "settings"
        elif self._origins[standing.mount_id] == "settings":
            await self._put(request, "settings", instead_of=standing)
        else:
            raise Conflict("something else was mounted there by a call", path=request.path)

    async def _put(self, request: MountRequest, origin: MountOrigin, *, instead_of: Mount | None = None) -> Mount:
        if self._is_closed:
            raise NotReady("the master is stopping")
        base = self.table.without(request.path)
        mount_id = mount_id_of(request)
        generation = await self._store.next_generation(mount_id)
        mount = _mount(request, mount_id, generation)
        table = base.with_mount(mount) if instead_of else self.table.with_mount(mount)
        revision = await self._store.put(mount, origin)
        if instead_of is not None:
            self._origins.pop(instead_of.mount_id)
        self._origins[mount_id] = origin
        self._publish(table, revision)
        LOG.info("mounted", path=mount.path, source=mount.ufs_uri, mount_id=mount_id, generation=generation)
        if instead_of is not None:
            await self._gone(instead_of)
        return mount

    async def _remove(self, mount: Mount) -> None:
        revision = await self._store.remove(mount.mount_id)
        self._origins.pop(mount.mount_id)
        self._publish(self.table.without(mount.path), revision)
        LOG.info("unmounted", path=mount.path, mount_id=mount.mount_id)
        await self._gone(mount)

    async def _gone(self, mount: Mount) -> None:
        self._on_gone()
        try:
            await self._sources.retire(mount)
        except ForebayError as e:
            LOG.warning("source_not_closed", mount_id=mount.mount_id, code=e.code, reason=e.message)

    def _publish(self, table: MountTable, revision: int) -> None:
        before, self.table, self.revision = self.table, table, revision
        self._on_change(before, table)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def canonical(request: MountRequest) -> MountRequest:
    """The request with its path and source in their one spelling.

    Raises:
        InvalidRequest: no normal path, no source address, no endpoint; it is to be written to.
    """
    check_read_only(request)
    uri = UfsUri.parse(request.ufs_uri)
    uri.ufs_id(request.options)  # reads the endpoint
    for rule in request.rules:
        check_key(rule.prefix)
    return msgspec.structs.replace(request, path=normalise(request.path), ufs_uri=str(uri))


def _mount(request: MountRequest, mount_id: str, generation: int) -> Mount:
    return Mount(
        mount_id=mount_id,
        generation=generation,
        path=request.path,
        ufs_uri=request.ufs_uri,
        ufs_id=UfsUri.parse(request.ufs_uri).ufs_id(request.options),
        options=request.options,
        read_only=request.read_only,
        block_size=request.block_size,
        replicas=request.replicas,
        max_age_s=request.max_age_s,
        pin=request.pin,
        ttl_s=request.ttl_s,
        quota_bytes=request.quota_bytes,
        rules=request.rules,
    )


def _is_as_wanted(mount: Mount, request: MountRequest) -> bool:
    return mount == _mount(request, mount.mount_id, mount.generation)
