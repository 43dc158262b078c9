"""Being a member: announces this worker once it knows the mounts, and follows the cluster map until it leaves."""

from __future__ import annotations

from collections.abc import Callable

from forebay.contracts import ClusterMap, Member
from forebay.discovery import Registry
from forebay.errors import PeerUnavailable
from forebay.runtime import Deadline, Supervisor, logs
from forebay_worker.mount_watch import MountWatch
from forebay_worker.mounts import MountBook
from forebay_worker.routing import Homes
from forebay_worker.standing import Standing

SERVING_PERIOD_S = 30.0
"""How often the serving weight goes to the registry; answers carry it all the time."""

MAP_WAIT_S = 30.0
ANNOUNCE_PAUSE_S = 1.0


class Joining:
    """``run`` is one task, which spawns those that follow map and mounts."""

    def __init__(
        self, registry: Registry, book: MountBook, watch: MountWatch, homes: Homes, standing: Standing
    ) -> None:
        self._registry = registry
        self._book = book
        self._watch = watch
        self._homes = homes
        self._standing = standing
        self._is_leaving = False
        self._log = logs.get("forebay_worker.app")

    def waiting_for(self) -> tuple[str, ...]:
        """What keeps this worker from being ready."""
        missing = []
        if self._registry.current() is None:
            missing.append("registry")
        if self._book.reply is None:
            missing.append("mounts")
        if not self._registry.is_announced():
            missing.append("announcement")
        return tuple(missing)

    async def run(
        self, spawner: Supervisor, deadline: Deadline, member: Callable[[], Member], on_ready: Callable[[], None]
    ) -> None:
        """Announces what ``member`` says until ``leave``; ``on_ready`` is called at the first that arrived."""
        await self._registry.start(deadline)
        spawner.spawn("map", self._follow_map())
        spawner.spawn("mounts", self._watch.run())
        while self._book.reply is None:
            await self._watch.changed(self._book.version, MAP_WAIT_S)
        is_ready = False
        while not self._is_leaving:
            try:
                await self._registry.announce(member(), succeeds=self._standing.succeeds)
            except PeerUnavailable as e:  # it goes on trying by itself
                self._log.warning("not_announced", error=e.message)
            if self._registry.is_announced() and not is_ready:
                is_ready = True
                on_ready()
            await self._standing.until_news(SERVING_PERIOD_S if is_ready else ANNOUNCE_PAUSE_S)

    async def _follow_map(self) -> None:
        seen: ClusterMap | None = self._registry.current()
        while not self._is_leaving:
            if seen is not None:
                self._homes.see(seen, self._registry.history())
            newer = await self._registry.changed(seen.revision if seen else 0, MAP_WAIT_S)
            seen = newer or seen

    async def leave(self) -> None:
        """Takes this worker off the map."""
        self._is_leaving = True
        await self._registry.close()
