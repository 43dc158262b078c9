"""The namespace: which mount an absolute path belongs to, and which directories exist only because of mounts. Pure.

A mount at ``/a/b`` makes ``/a`` a directory whether or not an under store has one there. Mounts may nest: the longest
prefix owns a path, and a mount point hides whatever an outer mount has under its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from forebay.contracts import Mount, MountRequest, encode, identity
from forebay.errors import Conflict, InvalidRequest, TooLarge
from forebay.ufs import is_file_name

PATH_BYTES_MAX = 4096
"""PATH_MAX of Linux, and the contracts' own bound."""

MOUNTS_MAX = 1000
"""Mounts in one table; all of them travel in one reply."""

ROOT = "/"


def normalise(path: str) -> str:
    """``path`` in its one spelling: absolute, no slash at the end ("/" is the root). One slash at the end is dropped.

    Raises:
        InvalidRequest: not absolute, an empty, "." or ".." part, NUL, not UTF-8, a name over 255 bytes, or over
            4096 bytes in all; ``details["reason"]`` says which.
    """
    if not path.startswith("/"):
        raise InvalidRequest("a path is absolute: it begins with '/'", reason="not_absolute")
    if path == ROOT:
        return path
    path = path.removesuffix("/")
    for name in path[1:].split("/"):
        if not is_file_name(name):
            raise _bad_name(name)
    if len(path.encode()) > PATH_BYTES_MAX:
        raise InvalidRequest(f"a path has at most {PATH_BYTES_MAX} bytes", reason="too_long")
    return path


def _bad_name(name: str) -> InvalidRequest:
    if not name:
        return InvalidRequest("a path has no empty part ('//')", reason="empty_part")
    if name in {".", ".."}:
        return InvalidRequest("a path has no '.' and '..' parts", reason="dots")
    if "\0" in name:
        return InvalidRequest("a path has no NUL", reason="nul")
    return InvalidRequest("a name has at most 255 bytes of UTF-8", reason="bad_name")


def parent_of(path: str) -> str:
    """The directory that holds ``path``; the root's is the root."""
    return path.rpartition("/")[0] or ROOT


def name_of(path: str) -> str:
    """The last part; "" for the root."""
    return path.rpartition("/")[2]


def join(directory: str, name: str) -> str:
    """The path of ``name`` in ``directory``."""
    return f"/{name}" if directory == ROOT else f"{directory}/{name}"


def ancestors(path: str) -> Iterator[str]:
    """Every directory above ``path``, the nearest first, the root last; none for the root."""
    while path != ROOT:
        path = parent_of(path)
        yield path


def mount_id_of(request: MountRequest) -> str:
    """The id of a source with its options at a path: the same on every master and after every restart."""
    said = encode(MountRequest(path=request.path, ufs_uri=request.ufs_uri, options=request.options))
    return f"m-{blake2b(said, digest_size=8, person=b'fb-mount').hexdigest()}"


def directory_inode(path: str) -> int:
    """``st_ino`` of a directory that mounts make: 1 for the root."""
    return 1 if path == ROOT else identity.inode_number(path, "")


@dataclass(frozen=True)
class Place:
    """What a path means: ``mount`` (the longest prefix, if any), ``key`` below its root, and ``below``: the names
    directly below the path that mounts put there, in byte order."""

    path: str
    mount: Mount | None
    key: str
    below: tuple[str, ...]

    @property
    def is_mount_point(self) -> bool:
        """Whether something is mounted exactly here."""
        return self.mount is not None and not self.key

    @property
    def is_given(self) -> bool:
        """Whether this is a directory by the mount table alone, whatever an under store says."""
        return self.is_mount_point or bool(self.below) or self.path == ROOT


@dataclass(frozen=True)
class MountTable:
    """All mounts. Invariants (``validate``): (1) paths are normal and differ; (2) ``_below`` holds exactly the
    directories above mounts, each with the sorted names that lead to one; (3) at most ``MOUNTS_MAX``."""

    mounts: tuple[Mount, ...] = ()
    _by_path: dict[str, Mount] = field(init=False, repr=False, compare=False)
    _below: dict[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_path", {mount.path: mount for mount in self.mounts})
        object.__setattr__(self, "_below", _directories_above(mount.path for mount in self.mounts))

    def resolve(self, path: str) -> tuple[Mount, str] | None:
        """The mount with the longest prefix of the normal ``path``, and the key below its root."""
        for prefix in (path, *ancestors(path)):
            mount = self._by_path.get(prefix)
            if mount is not None:
                return mount, path.removeprefix(prefix).lstrip("/")
        return None

    def place(self, path: str) -> Place:
        """What the normal ``path`` means."""
        mount, key = self.resolve(path) or (None, "")
        return Place(path, mount, key, self._below.get(path, ()))

    def given_paths(self) -> Iterator[str]:
        """Every path that is a directory because of mounts, the mount points among them."""
        yield from self._by_path
        yield from (path for path in self._below if path not in self._by_path)

    def at(self, path: str) -> Mount | None:
        """What is mounted exactly at ``path``."""
        return self._by_path.get(path)

    def with_mount(self, mount: Mount) -> MountTable:
        """The table with one mount more.

        Raises:
            Conflict: the path is taken. TooLarge: the table is full.
        """
        taken = self.at(mount.path)
        if taken is not None:
            raise Conflict("something is mounted there already", path=mount.path, mount_id=taken.mount_id)
        if len(self.mounts) >= MOUNTS_MAX:
            raise TooLarge(f"there are {MOUNTS_MAX} mounts already", limit=MOUNTS_MAX)
        return MountTable(tuple(sorted((*self.mounts, mount), key=lambda each: each.path)))

    def without(self, path: str) -> MountTable:
        """The table without what is mounted at ``path``."""
        return MountTable(tuple(mount for mount in self.mounts if mount.path != path))

    def validate(self) -> None:
        """Checks the invariants; fixtures call it at the end of a test."""
        paths = [mount.path for mount in self.mounts]
        assert paths == [normalise(path) for path in paths]
        assert len(set(paths)) == len(paths) <= MOUNTS_MAX
        assert set(self._below) == {above for path in paths for above in ancestors(path)}
        assert all(list(names) == sorted(set(names)) for names in self._below.values())


def _directories_above(paths: Iterable[str]) -> dict[str, tuple[str, ...]]:
    names: dict[str, set[str]] = {}
    for path in paths:
        for child in (path, *ancestors(path)):
            if child != ROOT:
                names.setdefault(parent_of(child), set()).add(name_of(child))
    return {directory: tuple(sorted(found)) for directory, found in names.items()}
