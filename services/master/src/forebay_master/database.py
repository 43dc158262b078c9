"""SQLite off the event loop: one thread that writes, a few that read, each with its own connection; WAL between them.

What is durable (mounts, the cluster map) is synced to disk before its write returns; what is only a cache of a listing
survives a crash of the process, and whatever the kernel had written survives one of the machine. Reads see one
consistent state for as long as their function runs.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import TypeVar

from forebay.errors import ConfigError, ForebayError, InternalError, NotReady, Overloaded
from forebay_master import accesses, failures

SCHEMA_VERSION = 2
APPLICATION_ID = 0x46424D53  # "FBMS"
FILE_NAME = "master.sqlite"
LOCK_NAME = "lock"

LEAVES = """
CREATE TABLE leaves (
    leaf INTEGER PRIMARY KEY, listing INTEGER NOT NULL, last TEXT NOT NULL, count INTEGER NOT NULL,
    directories INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE UNIQUE INDEX leaves_by_name ON leaves (listing, last);
CREATE INDEX leaves_with_directories ON leaves (listing, last) WHERE directories > 0;
"""
_SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE mounts (
    mount_id TEXT PRIMARY KEY, path TEXT NOT NULL UNIQUE, origin TEXT NOT NULL, record BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE generations (mount_id TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE cluster_map (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL, record BLOB NOT NULL);
CREATE TABLE listings (
    listing INTEGER PRIMARY KEY AUTOINCREMENT, mount_id TEXT NOT NULL, generation INTEGER NOT NULL,
    directory TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('filling', 'current', 'dead')),
    synced_at_s REAL NOT NULL, entry_count INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX current_listings ON listings (mount_id, generation, directory) WHERE state = 'current';
CREATE INDEX other_listings ON listings (state) WHERE state != 'current';
{LEAVES}
"""

_FROM_1 = f"""
BEGIN IMMEDIATE; DROP TABLE inodes; DELETE FROM listings; {LEAVES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;
"""
"""Version 1 had a row for each name. Listings can be had again, so they are not taken over."""

T = TypeVar("T")


@dataclass(frozen=True)
class DatabaseLimits:
    """Bounds of one database."""

    readers: int = 2
    """Reading threads (most of a read is Python, so more than the processors give nothing)."""
    reads_max: int = 1024
    """Reads that run or wait; one more is refused as ``Overloaded``."""
    writes_max: int = 1024
    """Writes that run or wait."""
    cache_kib: int = 16 << 10
    """Page cache of each connection."""


class Database:
    """One SQLite file in a state directory that no other process uses. For one event loop; ``close`` at the end."""

    def __init__(self, directory: Path, lock: int, limits: DatabaseLimits) -> None:
        self._path = directory / FILE_NAME
        self._lock = lock
        self._limits = limits
        self._closed = False
        self._local = local()
        self._connections: list[sqlite3.Connection] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sqlite-write")
        self._readers = ThreadPoolExecutor(limits.readers, thread_name_prefix="sqlite-read")
        self.reads = 0
        self.writes = 0

    @staticmethod
    def open(directory: Path, limits: DatabaseLimits | None = None) -> Database:
        """The database in ``directory``, made if it is not there. Blocks: it belongs before the loop's work.

        Raises:
            ConfigError: the directory cannot be made, written, or is in use; the file is not ours, damaged, or of a
                newer version.
        """
        with _explained(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _lock(directory)
            try:
                _create(directory / FILE_NAME)
            except BaseException:
                os.close(lock)
                raise
        return Database(directory, lock, limits or DatabaseLimits())

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """``work``'s result from a reading thread; all its queries see the same state.

        Raises:
            Overloaded: too many wait. InternalError: SQLite failed. What ``work`` raises.
        """
        if self.reads >= self._limits.reads_max:
            raise Overloaded("too many reads wait for the metadata store", limit=self._limits.reads_max)
        self.reads += 1
        return await self._finish(self._readers, self._read, work, self._read_done)

    async def write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """``work``'s result from the writing thread, in one transaction: all of it or nothing.

        With ``durable`` it is on the disk when this returns. A cancelled caller does not undo a write that has begun.

        Raises:
            Overloaded: too many wait. InternalError: SQLite failed (a full disk). What ``work`` raises.
        """
        if self.writes >= self._limits.writes_max:
            raise Overloaded("too many writes wait for the metadata store", limit=self._limits.writes_max)
        self.writes += 1
        return await self._finish(self._writer, lambda w: self._write(w, durable), work, self._write_done)

    async def close(self) -> None:
        """Waits for what runs, then closes the file."""
        self._closed = True
        await asyncio.to_thread(self.close_now)

    async def _finish(
        self,
        threads: ThreadPoolExecutor,
        run: Callable[[Callable[[sqlite3.Connection], T]], T],
        work: Callable[[sqlite3.Connection], T],
        done: Callable[[], None],
    ) -> T:
        loop = asyncio.get_running_loop()
        try:
            if self._closed:
                raise NotReady("the metadata store is closed")
            future: Future[T] = threads.submit(run, work)
        except BaseException:
            done()
            raise
        # Counted down when the thread is through, not when the caller gives up: the queue is what is bounded.
        future.add_done_callback(lambda _: _quietly(loop, done))
        return await asyncio.wrap_future(future)

    def _read_done(self) -> None:
        self.reads -= 1

    def _write_done(self) -> None:
        self.writes -= 1

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with _translated():
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                connection.execute("ROLLBACK")

    def _write(self, work: Callable[[sqlite3.Connection], T], durable: bool) -> T:
        with _translated():
            connection = self._connection()
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = _connect(self._path)
            found.execute(f"PRAGMA cache_size = -{self._limits.cache_kib}")
            self._local.connection = found
            self._connections.append(found)
        return found

    def close_now(self) -> None:
        """As ``close``, blocking."""
        self._closed = True
        self._readers.shutdown(cancel_futures=True)
        self._writer.shutdown()
        for connection in self._connections:
            connection.close()
        os.close(self._lock)


def _quietly(loop: asyncio.AbstractEventLoop, done: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(done)


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError("state_dir", f"{directory} is in use by another master") from None
    return descriptor


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    return connection


def _create(path: Path) -> None:
    """Makes the schema in an empty file, or checks that it is ours."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with closing(_connect(path)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if version == 0 and is_empty:
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} INSERT INTO meta VALUES ('mounts_revision', 0);"
                f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif application != APPLICATION_ID:
            raise ConfigError("state_dir", f"{path} is another program's database")
        elif version == 1:
            connection.executescript(_FROM_1)
        elif version != SCHEMA_VERSION:
            raise ConfigError("state_dir", f"{path} has schema version {version}, this master knows {SCHEMA_VERSION}")
        for schema in (failures.SCHEMA, accesses.SCHEMA):  # earlier files of this version do without
            connection.execute(schema)


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise ConfigError("state_dir", f"{directory} cannot be used: {e.strerror}") from e
    except sqlite3.Error as e:
        raise ConfigError("state_dir", f"{directory / FILE_NAME} cannot be opened: {e}") from e


@contextmanager
def _translated() -> Iterator[None]:
    """The one door where SQLite's errors become ours."""
    try:
        yield
    except ForebayError:
        raise
    except sqlite3.Error as e:
        raise InternalError(f"the metadata store failed: {e}", error=type(e).__name__) from e
