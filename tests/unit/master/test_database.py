"""SQLite off the loop: who may open it, what is refused, what survives."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from forebay.errors import ConfigError, InternalError, NotReady, Overloaded
from forebay.testing import run
from forebay_master.database import APPLICATION_ID, FILE_NAME, Database, DatabaseLimits


def put(db: sqlite3.Connection, name: str, value: int) -> None:
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def get(db: sqlite3.Connection, name: str) -> object:
    found = db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if found is None else found[0]


@pytest.mark.parametrize("durable", [False, True])
def test_what_was_written_is_there_after_opening_again(tmp_path: Path, durable: bool) -> None:
    async def main() -> None:
        first = Database.open(tmp_path)
        await first.write(lambda db: put(db, "x", 7), durable=durable)
        assert await first.read(lambda db: get(db, "x")) == 7
        await first.close()
        second = Database.open(tmp_path)
        assert await second.read(lambda db: get(db, "x")) == 7
        await second.close()

    run(main())


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def half(db: sqlite3.Connection) -> None:
        put(db, "x", 1)
        raise NotReady("half way")

    async def main() -> None:
        database = Database.open(tmp_path)
        with pytest.raises(NotReady):
            await database.write(half)
        assert await database.read(lambda db: get(db, "x")) is None
        await database.close()

    run(main())


def test_an_error_of_sqlite_is_translated(tmp_path: Path) -> None:
    async def main() -> None:
        database = Database.open(tmp_path)
        with pytest.raises(InternalError):
            await database.write(lambda db: db.execute("INSERT INTO nowhere VALUES (1)"))
        with pytest.raises(InternalError):
            await database.read(lambda db: db.execute("SELECT * FROM nowhere"))
        await database.write(lambda db: put(db, "x", 1))
        await database.close()

    run(main())


def test_a_read_sees_one_state_though_writes_go_on(tmp_path: Path) -> None:
    async def main() -> None:
        database = Database.open(tmp_path)
        await database.write(lambda db: put(db, "x", 1))
        began, go_on = threading.Event(), threading.Event()

        def twice(db: sqlite3.Connection) -> tuple[object, object]:
            before = get(db, "x")
            began.set()
            go_on.wait(10)
            return before, get(db, "x")

        reading = asyncio.ensure_future(database.read(twice))
        await asyncio.to_thread(began.wait, 10)
        await database.write(lambda db: put(db, "x", 2))
        go_on.set()
        assert await reading == (1, 1)
        assert await database.read(lambda db: get(db, "x")) == 2
        await database.close()

    run(main())


def test_too_many_waiting_are_refused_and_counted_down_again(tmp_path: Path) -> None:
    async def main() -> None:
        database = Database.open(tmp_path, DatabaseLimits(readers=1, reads_max=2, writes_max=2))
        go_on = threading.Event()
        held = [asyncio.ensure_future(database.read(lambda db: go_on.wait(10))) for _ in range(2)]
        held += [asyncio.ensure_future(database.write(lambda db: go_on.wait(10))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await database.read(lambda db: None)
        with pytest.raises(Overloaded):
            await database.write(lambda db: None)
        go_on.set()
        await asyncio.gather(*held)
        await asyncio.sleep(0)
        assert (database.reads, database.writes) == (0, 0)
        await database.close()

    run(main())


def test_a_caller_that_gives_up_does_not_undo_a_write_that_has_begun(tmp_path: Path) -> None:
    async def main() -> None:
        database = Database.open(tmp_path)
        began, go_on = threading.Event(), threading.Event()

        def slow(db: sqlite3.Connection) -> None:
            began.set()
            go_on.wait(10)
            put(db, "x", 1)

        writing = asyncio.ensure_future(database.write(slow))
        await asyncio.to_thread(began.wait, 10)
        writing.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await database.write(lambda db: put(db, "y", 1))
        assert await database.read(lambda db: get(db, "x")) == 1
        await database.close()

    run(main())


def test_closed_it_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        database = Database.open(tmp_path)
        await database.close()
        with pytest.raises(NotReady):
            await database.read(lambda db: None)
        assert database.reads == 0

    run(main())


def test_two_masters_do_not_share_a_directory(tmp_path: Path) -> None:
    first = Database.open(tmp_path)
    with pytest.raises(ConfigError, match="in use"):
        Database.open(tmp_path)
    first.close_now()
    Database.open(tmp_path).close_now()


def test_a_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    Database.open(tmp_path / "a" / "b").close_now()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "b" / FILE_NAME).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "statements",
    ["CREATE TABLE t (x)", f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99; CREATE TABLE t (x)"],
)
def test_a_strange_or_newer_database_is_refused(tmp_path: Path, statements: str) -> None:
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.executescript(statements)
    connection.close()
    with pytest.raises(ConfigError) as refused:
        Database.open(tmp_path)
    assert refused.value.setting == "state_dir"


def test_a_damaged_file_is_a_setting_that_cannot_work(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"this is no database" * 1000)
    with pytest.raises(ConfigError):
        Database.open(tmp_path)


def test_a_state_directory_that_is_a_file_is_a_setting_that_cannot_work(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(ConfigError):
        Database.open(tmp_path / "f")


def test_a_file_of_the_first_version_keeps_its_mounts_and_forgets_its_listings(tmp_path: Path) -> None:
    Database.open(tmp_path).close_now()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.executescript(
        "DROP TABLE leaves; CREATE TABLE inodes (listing INTEGER, name TEXT, kind INTEGER);"
        "CREATE INDEX directories ON inodes (listing, name) WHERE kind = 1; PRAGMA user_version = 1;"
        "INSERT INTO generations VALUES ('m', 3);"
        "INSERT INTO listings (mount_id, generation, directory, state, synced_at_s) VALUES ('m', 3, '', 'current', 1.0)"
    )
    connection.close()
    Database.open(tmp_path).close_now()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute("SELECT generation FROM generations").fetchall() == [(3,)]
    assert connection.execute("SELECT count(*) FROM listings").fetchall() == [(0,)]
    assert connection.execute("SELECT count(*) FROM leaves").fetchall() == [(0,)]
    connection.close()
