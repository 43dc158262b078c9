"""Single names asked of under stores: lookups in directories that have no good listing. Answers are kept in memory.

Both answers are kept, "there" and "not there", for as long as the mount's consistency class lets them be used, and at
most ``kept_max`` of them. An error is never kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from forebay.contracts import Change, ChangeKind, Mount
from forebay.errors import NotFound
from forebay.runtime import Deadline, Supervisor
from forebay_master.changes import Feed, path_of
from forebay_master.entries import Origin, Row
from forebay_master.flights import Flights
from forebay_master.listings import DirectoryName, Known
from forebay_master.observe import Meters, counting_errors
from forebay_master.sources import Sources

StatName = tuple[str, int, str, str]
"""Mount id, generation, directory, name."""


@dataclass(frozen=True)
class StatLimits:
    """Bounds of asking for single names."""

    running_max: int = 64
    """Names that are asked for at the same time."""
    flights_max: int = 4096
    """Names that are asked for or wait for it."""
    stat_max_s: float = 60.0
    """One name."""
    kept_max: int = 32_768
    """Answers in memory (~0.5 KiB each)."""


class Stats:
    """Asks for single names, each once at a time. ``clock`` is wall time."""

    def __init__(
        self,
        sources: Sources,
        supervisor: Supervisor,
        meters: Meters,
        *,
        clock: Callable[[], float],
        feed: Feed,
        limits: StatLimits | None = None,
    ) -> None:
        self._feed = feed
        self._sources = sources
        self._meters = meters
        self._clock = clock
        self._limits = limits or StatLimits()
        self._flights = Flights[StatName, Known](
            "stat", supervisor, clock=clock, running_max=self._limits.running_max, flights_max=self._limits.flights_max
        )
        self._kept: OrderedDict[StatName, Known] = OrderedDict()
        self._names: dict[DirectoryName, set[str]] = {}
        self._forgot: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def kept(self) -> int:
        """Answers in memory."""
        return len(self._kept)

    def recall(self, mount: Mount, directory: str, name: str) -> Known | None:
        """The last answer, however old."""
        return self._kept.get((mount.mount_id, mount.generation, directory, name))

    def take(self, mount: Mount, directory: str, before_s: float) -> dict[str, Known]:
        """The last answers about names in a directory, as far as they are from before ``before_s``: a listing that
        began then takes their place, so they are dropped."""
        whole = DirectoryName.of(mount, directory)
        names = [name for name in self._names.get(whole, ()) if self._kept[*whole, name].synced_at_s < before_s]
        return {name: self._drop((*whole, name)) for name in names}

    def asked_below(self, mount: Mount, directory: str) -> list[str]:
        """Directories below a directory in which single names are known."""
        whole, head = (mount.mount_id, mount.generation), f"{directory}/" if directory else ""
        return [n.directory for n in self._names if n[:2] == whole and n.directory and n.directory.startswith(head)]

    def has_forgotten(self, mount: Mount) -> bool:
        """Whether answers about names of a mount were dropped for want of room."""
        return self._forgot.get(mount.mount_id) == mount.generation

    async def ask(
        self, mount: Mount, directory: str, name: str, since_s: float, *, before: Known | None = None
    ) -> Known:
        """The answer of the under store from ``since_s`` or later: one row, or none if there is no such name. An
        answer that differs from what was known ``before`` is told to those who watch.

        Raises:
            UfsError and its kinds, PermissionDenied, DeadlineExceeded, Overloaded.
        """
        stat_name = (mount.mount_id, mount.generation, directory, name)
        return await self._flights.join(stat_name, since_s, partial(self._ask, mount, directory, name, before))

    async def _ask(self, mount: Mount, directory: str, name: str, before: Known | None) -> Known:
        begun_s = self._clock()
        with counting_errors(self._meters.stats):
            row = await self._stat(mount, directory, name)
        self._meters.stats.add(1, "missing" if row is None else "found")
        known = Known(begun_s, () if row is None else (row,))
        self._keep((mount.mount_id, mount.generation, directory, name), known)
        if before is not None:
            self._feed.tell(answer_changes(mount, directory, name, before, known))
        return known

    async def _stat(self, mount: Mount, directory: str, name: str) -> Row | None:
        key = f"{directory}/{name}" if directory else name
        async with Deadline.after(self._limits.stat_max_s).timeout(), self._sources.use(mount) as ufs:
            try:
                found = await ufs.stat(key)
            except NotFound:
                return None
        row = Origin.of(mount, directory).row(found)
        self._meters.refused_entries.add(row is None)
        return row

    def _keep(self, stat_name: StatName, known: Known) -> None:
        self._kept[stat_name] = known
        self._kept.move_to_end(stat_name)
        self._names.setdefault(DirectoryName(*stat_name[:3]), set()).add(stat_name[3])
        while len(self._kept) > self._limits.kept_max:
            oldest = next(iter(self._kept))
            self._forgot[oldest[0]] = oldest[1]
            self._drop(oldest)

    def _drop(self, stat_name: StatName) -> Known:
        directory = DirectoryName(*stat_name[:3])
        names = self._names[directory]
        names.discard(stat_name[3])
        if not names:
            del self._names[directory]
        return self._kept.pop(stat_name)


def answer_changes(mount: Mount, directory: str, name: str, before: Known, now: Known) -> tuple[Change, ...]:
    """How an answer about one name differs from the one before it."""
    old, new = (known.rows[0] if known.rows else None for known in (before, now))
    if old is None and new is None:
        return ()
    path = path_of(mount, directory, name)
    if new is None:
        return (Change(mount_id=mount.mount_id, path=path, kind="removed"),)
    if old is not None and (old.kind, old.fingerprint) == (new.kind, new.fingerprint):
        return ()
    kind: ChangeKind = "added" if old is None else "changed"
    return (Change(mount_id=mount.mount_id, path=path, kind=kind, fingerprint=new.fingerprint or None),)
