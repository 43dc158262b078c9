"""The worker's own copy of the mount table: what a key is relative to, which block size, which under store. Pure.

Nothing that a client says about a mount is believed. A mount whose source is not below the allowed roots is known but
refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from forebay.contracts import Mount, MountsReply
from forebay.errors import ForebayError, InvalidRequest, NotFound, PermissionDenied
from forebay.ufs import AllowedRoots, UfsUri


@dataclass(frozen=True)
class Mounted:
    """A mount that may be read, with its parsed source."""

    mount: Mount
    uri: UfsUri

    @cached_property
    def ufs_id(self) -> str:
        """Names the under store (see ``UfsUri.ufs_id``, whose normal form of the endpoint costs 60 µs)."""
        return self.uri.ufs_id(self.mount.options)

    @property
    def name(self) -> tuple[str, int]:
        """Id and generation: what an opened under store belongs to."""
        return self.mount.mount_id, self.mount.generation


class MountBook:
    """The last table that was taken, and who waits for another one is told by ``version`` growing."""

    def __init__(self, cluster_id: str, roots: AllowedRoots) -> None:
        self._cluster_id = cluster_id
        self._roots = roots
        self._mounts: dict[str, Mounted | ForebayError] = {}
        self.reply: MountsReply | None = None
        self.version = 0

    @property
    def revision(self) -> int:
        """The table's revision at the master; 0 before there is one."""
        return self.reply.revision if self.reply is not None else 0

    def take(self, reply: MountsReply) -> dict[str, str]:
        """Replaces the table; returns the refused mounts with the reason.

        Raises:
            InvalidRequest: the table of another cluster.
        """
        if reply.cluster_id != self._cluster_id:
            raise InvalidRequest("the mount table belongs to another cluster", cluster_id=reply.cluster_id)
        self._mounts = {mount.mount_id: self._judge(mount) for mount in reply.mounts}
        self.reply = reply
        self.version += 1
        return {name: judged.message for name, judged in self._mounts.items() if isinstance(judged, ForebayError)}

    def _judge(self, mount: Mount) -> Mounted | ForebayError:
        try:
            uri = UfsUri.parse(mount.ufs_uri)
            self._roots.check(uri, mount.options)
        except (InvalidRequest, PermissionDenied) as e:
            return e
        return Mounted(mount, uri)

    def below(self, path: str) -> tuple[list[Mounted], tuple[Mounted, str] | None]:
        """The mounts at ``path`` or below it; and, where it lies inside one, that one and the key there."""
        wanted = "/" + path.strip("/")
        prefix = wanted.rstrip("/") + "/"
        readable = [judged for judged in self._mounts.values() if isinstance(judged, Mounted)]
        whole = [m for m in readable if f"{m.mount.path.rstrip('/')}/".startswith(prefix)]
        around = [m for m in readable if m not in whole and prefix.startswith(f"{m.mount.path.rstrip('/')}/")]
        inner = max(around, key=lambda m: len(m.mount.path), default=None)
        if inner is None or any(m.mount.path == wanted for m in whole):
            return whole, None
        return whole, (inner, wanted.removeprefix(inner.mount.path).strip("/"))

    def find(self, mount_id: str) -> Mounted:
        """The mount.

        Raises:
            NotFound: this worker knows no such mount.
            PermissionDenied: its source is not below this worker's allowed roots.
        """
        judged = self._mounts.get(mount_id)
        if judged is None:
            raise NotFound("this worker knows no such mount", mount_id=mount_id)
        if isinstance(judged, ForebayError):
            raise PermissionDenied(f"this worker may not read the mount: {judged.message}", mount_id=mount_id)
        return judged

    def holds(self, name: tuple[str, int]) -> bool:
        """Whether the mount of this name may be read now."""
        judged = self._mounts.get(name[0])
        return isinstance(judged, Mounted) and judged.name == name

    def all(self) -> list[Mounted]:
        """Every mount that may be read."""
        return [judged for judged in self._mounts.values() if isinstance(judged, Mounted)]

    def __len__(self) -> int:
        return len(self._mounts)
