"""Where shards are read from: the SDK, a mount of ours, or a plain folder. All can be pickled and forked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from forebay.client import ClientOptions, SyncClient
from forebay.client.sync import SyncReader
from forebay.data.errors import NotOurMount
from forebay.errors import ForebayError, InvalidRequest, NotFound, PermissionDenied, StaleVersion, UfsUnavailable
from forebay.runtime import logs
from forebay.telemetry import waits

MOUNT_TYPE = "fuse.forebay"
HINTS = ".forebay/hints"
LOG = logs.get("forebay.data")
_CLIENTS: dict[ClientOptions, SyncClient] = {}
"""Clients of this process by their options; forked children make theirs anew under the same entry."""


class ByteSource(Protocol):
    """One version of one open file. Calls may come from several threads."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer``; the count is short only at the end."""

    def close(self) -> None:
        """Let it go."""


@dataclass(frozen=True)
class Shape:
    """How a place is best read by one reader: pieces of this length, so many of them in memory, by up to so many
    streams."""

    piece_bytes: int = 4 << 20
    buffers: int = 8
    streams_max: int = 4


IN_ORDER = Shape(piece_bytes=1 << 20, buffers=32, streams_max=1)
"""A mount: its kernel and its gateway read ahead of one stream, and take several in one file for random reads
(measured: 578 to 806 MB/s with four streams, 925 to 1,005 so)."""


class Files(Protocol):
    """A place with files, by path below its root."""

    @property
    def shape(self) -> Shape:
        """How it is best read."""

    def open(self, path: str) -> ByteSource:
        """An open file. Raises ForebayError."""

    def names(self, folder: str = "") -> list[str]:
        """Paths of the files directly in ``folder``, sorted."""

    def hint(self, paths: Sequence[str], *, epoch: int, seed: int, rank: int, is_next: bool = False) -> None:
        """These files will be read in this order, as far as anybody can make use of it; ``is_next``: after those of
        the order that was said before.

        Raises:
            NotFound: some are not there.
        """


class LocalSource:
    """An open file descriptor; ``kind`` of place for who records what is waited for."""

    def __init__(self, path: Path, kind: str = "local") -> None:
        self._path, self._kind = path, kind
        try:
            with waits.timed(kind, str(path)):
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._size = os.fstat(self._fd).st_size
        except OSError as e:
            raise _translated(e, path) from e

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """As ``ByteSource.read_into``."""
        done = 0
        try:
            with waits.timed(self._kind, str(self._path)):
                while done < len(buffer):
                    n = os.preadv(self._fd, [buffer[done:]], offset + done)
                    if n == 0:
                        break
                    done += n
        except OSError as e:
            raise _translated(e, self._path) from e
        return done

    def close(self) -> None:
        """Closes the descriptor; a second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(frozen=True)
class FolderFiles:
    """A folder of any file system."""

    root: Path

    @property
    def shape(self) -> Shape:
        """As ``Files.shape``."""
        return Shape()

    def open(self, path: str) -> ByteSource:
        """As ``Files.open``."""
        return LocalSource(self.root / path.lstrip("/"))

    def names(self, folder: str = "") -> list[str]:
        """As ``Files.names``."""
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(os.path.join(folder, entry.name) for entry in entries if entry.is_file())
        except OSError as e:
            raise _translated(e, self.root / folder) from e

    def hint(self, paths: Sequence[str], *, epoch: int, seed: int, rank: int, is_next: bool = False) -> None:
        """As ``Files.hint``: nobody can."""


@dataclass(frozen=True)
class MountFiles(FolderFiles):
    """A folder of a mount of ours.

    Raises:
        NotOurMount: when made, if it is not.
    """

    def __post_init__(self) -> None:
        found = mount_type(self.root, Path("/proc/self/mountinfo").read_text())
        if found != MOUNT_TYPE:
            raise NotOurMount(f"{self.root} is no mount of Forebay's (it is {found or 'not there'})")
        waits.mount_used(str(self.root))

    @property
    def shape(self) -> Shape:
        """As ``Files.shape``."""
        return IN_ORDER

    def open(self, path: str) -> ByteSource:
        """As ``Files.open``."""
        return LocalSource(self.root / path.lstrip("/"), "mount")

    def hint(self, paths: Sequence[str], *, epoch: int, seed: int, rank: int, is_next: bool = False) -> None:
        """As ``Files.hint``, by the mount's ``.forebay/hints``; a mount that takes none is not told."""
        here = self.root.resolve()
        top = next(folder for folder in (here, *here.parents) if os.path.ismount(folder))
        below = here.relative_to(top)
        head = f"# epoch={epoch} seed={seed} rank={rank}" + " next=1" * is_next
        lines = [head, *(str(below / path.lstrip("/")) for path in paths), ""]
        try:
            file = (top / HINTS).open("w")
        except OSError as e:
            LOG.info("the mount takes no hints", mount=str(top), error=e.strerror)
            return
        try:
            with file:
                file.write("\n".join(lines))
        except FileNotFoundError as e:
            raise NotFound((top / HINTS).read_text().strip(), path=str(here)) from e
        except OSError as e:
            LOG.warning("a hint was not taken", mount=str(top), error=e.strerror)


class SdkSource:
    """A reader of the SDK. What a call waits for is a turn, as far as nothing else is under way for it."""

    def __init__(self, reader: SyncReader) -> None:
        self._reader, self._path = reader, reader.file.path

    @property
    def size(self) -> int:
        """In bytes."""
        return self._reader.size

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """As ``ByteSource.read_into``."""
        with waits.timed("queueing", self._path):
            return self._reader.read_into(offset, buffer)

    def close(self) -> None:
        """Lets it go."""
        self._reader.close()


@dataclass(frozen=True)
class SdkFiles:
    """A cluster, without a mount. ``prefix`` is the folder of the namespace that paths are below."""

    options: ClientOptions
    prefix: str = "/"

    @property
    def shape(self) -> Shape:
        """As ``Files.shape``."""
        return Shape()

    def client(self) -> SyncClient:
        """The client of this process."""
        client = _CLIENTS.get(self.options)
        if client is None:
            client = _CLIENTS[self.options] = SyncClient(self.options)
        return client

    def open(self, path: str) -> ByteSource:
        """As ``Files.open``."""
        full = self._full(path)
        with waits.timed("queueing", full):
            return SdkSource(self.client().open(full))

    def names(self, folder: str = "") -> list[str]:
        """As ``Files.names``."""
        return sorted(os.path.join(folder, e.name) for e in self._entries(folder))

    def hint(self, paths: Sequence[str], *, epoch: int, seed: int, rank: int, is_next: bool = False) -> None:
        """As ``Files.hint``, by the SDK."""
        try:
            full = [self._full(path) for path in paths]
            self.client().hint(full, epoch=epoch, seed=seed, rank=rank, is_next=is_next)
        except (NotFound, InvalidRequest):
            raise
        except ForebayError as e:  # advice that nobody took: reads go on
            LOG.warning("a hint was not taken", error=e.message)

    def _entries(self, folder: str) -> Iterator[_Named]:
        return (e for e in self.client().list(self._full(folder)) if e.kind == "file")

    def _full(self, path: str) -> str:
        return f"{self.prefix.rstrip('/')}/{path.lstrip('/')}"

    def close(self) -> None:
        """Ends this process's client."""
        client = _CLIENTS.pop(self.options, None)
        if client is not None:
            client.close()


class _Named(Protocol):
    @property
    def name(self) -> str:
        """In its directory."""


def mount_type(path: Path, mountinfo: str) -> str | None:
    """The type of the file system that ``path`` lies in, by the text of /proc/self/mountinfo (proc(5))."""
    if not path.exists():
        return None
    real, best, found = str(path.resolve()), -1, None
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        point = head.split()[4].encode().decode("unicode_escape")
        covers = real == point or real.startswith(point.rstrip("/") + "/")
        if covers and len(point) >= best:
            best, found = len(point), tail.split()[0]
    return found


def _translated(error: OSError, path: Path) -> ForebayError:
    if isinstance(error, FileNotFoundError):
        return NotFound(f"no such file: {path}", path=str(path))
    if isinstance(error, PermissionError):
        return PermissionDenied(f"{path}: {error.strerror}", path=str(path))
    if isinstance(error, IsADirectoryError | NotADirectoryError):
        return InvalidRequest(f"{path}: {error.strerror}", path=str(path))
    if error.errno == 116:  # ESTALE
        return StaleVersion(f"{path} was changed while it was read", path=str(path))
    return UfsUnavailable(f"{path}: {error.strerror}", path=str(path), errno=error.errno)
