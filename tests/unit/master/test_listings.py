"""Listings in SQLite: filled apart, sealed at once, swept later."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.contracts import ClusterMap, Member, Mount
from forebay.contracts.leaves import LEAF_NAMES
from forebay.errors import InternalError, NotFound
from forebay_master import listings, records
from forebay_master.database import FILE_NAME, Database
from forebay_master.entries import DIRECTORY, FILE, Row
from forebay_master.listings import SWEEP_LEAVES, DirectoryName, ListingCounts

MOUNT = Mount(mount_id="m", generation=1, path="/", ufs_uri="file:///x", ufs_id="0" * 32)
NAME = DirectoryName.of(MOUNT, "d")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    Database.open(tmp_path).close_now()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    records.put_mount(connection, MOUNT, "api")
    yield connection
    connection.close()


def row(name: str, kind: int = FILE, size: int = 1) -> Row:
    return Row(name, kind, size, 0, 0o444, "" if kind == DIRECTORY else "f")


def fill(db: sqlite3.Connection, names: list[str], synced_at_s: float = 1.0) -> int:
    listing = listings.begin(db, NAME, synced_at_s)
    listings.add(db, listing, [row(name) for name in names])
    return listing


def names(db: sqlite3.Connection, after: str = "", limit: int = 100) -> list[str] | None:
    known = listings.page(db, NAME, after, limit)
    return None if known is None else [found.name for found in known.rows]


def test_a_listing_is_not_seen_before_it_is_sealed(db: sqlite3.Connection) -> None:
    listing = fill(db, ["a", "b"])
    assert names(db) is None
    assert listings.seal(db, NAME, listing).names == 2
    assert names(db) == ["a", "b"]


def test_an_empty_directory_is_known_to_be_empty(db: sqlite3.Connection) -> None:
    listings.seal(db, NAME, fill(db, []))
    assert names(db) == []


def test_a_new_listing_takes_the_place_of_the_old_one_at_once(db: sqlite3.Connection) -> None:
    listings.seal(db, NAME, fill(db, ["a", "b"], 1.0))
    second = fill(db, ["b", "c"], 2.0)
    assert names(db) == ["a", "b"]
    listings.seal(db, NAME, second)
    assert names(db) == ["b", "c"]


def test_an_abandoned_listing_changes_nothing(db: sqlite3.Connection) -> None:
    listings.seal(db, NAME, fill(db, ["a"]))
    listings.abandon(db, fill(db, ["b"]))
    assert names(db) == ["a"]


def test_pages_go_on_behind_a_name_in_byte_order(db: sqlite3.Connection) -> None:
    given = ["Z", "a", "a b", "a-b", "a.b", "aa", "z", "ä", "日", "😀"]
    listings.seal(db, NAME, fill(db, list(reversed(given))))
    assert given == sorted(given, key=lambda name: name.encode())
    assert names(db, limit=4) == given[:4]
    assert names(db, after=given[3], limit=4) == given[4:8]
    assert names(db, after=given[-1]) == []


def test_a_directory_beats_a_file_of_its_name_whichever_comes_first(db: sqlite3.Connection) -> None:
    listing = listings.begin(db, NAME, 1.0)
    listings.add(db, listing, [row("a", FILE), row("b", DIRECTORY, 0)])
    listings.add(db, listing, [row("a", DIRECTORY, 0), row("b", FILE)])
    assert listings.seal(db, NAME, listing).names == 2
    known = listings.page(db, NAME, "", 10)
    assert known is not None
    assert [found.kind for found in known.rows] == [DIRECTORY, DIRECTORY]


def test_one_name_is_found_or_known_to_be_missing(db: sqlite3.Connection) -> None:
    assert listings.find(db, NAME, "a") is None
    listings.seal(db, NAME, fill(db, ["a"], 5.0))
    found, missing = listings.find(db, NAME, "a"), listings.find(db, NAME, "b")
    assert found is not None
    assert missing is not None
    assert (found.rows, found.synced_at_s) == ((row("a"),), 5.0)
    assert (missing.rows, missing.synced_at_s) == ((), 5.0)


def test_a_listing_of_a_mount_that_is_gone_or_was_replaced_is_not_sealed(db: sqlite3.Connection) -> None:
    listing = fill(db, ["a"])
    records.remove_mount(db, "m")
    with pytest.raises(NotFound):
        listings.seal(db, NAME, listing)
    again = Mount(mount_id="m", generation=2, path="/", ufs_uri="file:///x", ufs_id="0" * 32)
    records.put_mount(db, again, "api")
    with pytest.raises(NotFound):
        listings.seal(db, NAME, listing)


def test_a_removed_mount_forgets_its_listings(db: sqlite3.Connection) -> None:
    listings.seal(db, NAME, fill(db, ["a"]))
    records.remove_mount(db, "m")
    assert names(db) is None
    assert listings.counts(db) == {}


def test_sweeping_throws_away_what_is_dead_and_nothing_else(db: sqlite3.Connection) -> None:
    many = [f"{number:06}" for number in range((SWEEP_LEAVES + 10) * LEAF_NAMES)]
    listings.seal(db, NAME, fill(db, many))
    listings.abandon(db, fill(db, ["x"]))
    filling = fill(db, ["y"])
    listings.seal(db, NAME, fill(db, ["a"]))
    rounds = 0
    while listings.sweep(db):
        rounds += 1
    assert rounds == 3
    assert db.execute("SELECT last FROM leaves ORDER BY last").fetchall() == [("a",), ("y",)]
    listings.bury_unfinished(db)
    while listings.sweep(db):
        pass
    assert db.execute("SELECT last FROM leaves").fetchall() == [("a",)]
    assert db.execute("SELECT count(*) FROM listings").fetchone() == (1,)
    assert filling > 0


def test_counts_are_of_current_listings(db: sqlite3.Connection) -> None:
    listings.seal(db, NAME, fill(db, ["a", "b"]))
    listings.seal(db, NAME, fill(db, ["a", "b", "c"]))
    fill(db, ["x"])
    assert listings.counts(db) == {"m": ListingCounts(1, 3)}


def test_what_differs_between_two_listings_is_told_by_name(db: sqlite3.Connection) -> None:
    many = [f"{number:04}" for number in range(2 * LEAF_NAMES)]
    listings.seal(db, NAME, fill(db, many))
    second = listings.begin(db, NAME, 2.0)
    kept = [row(name) for name in many[1:]]
    listings.add(db, second, [*kept[:-1], kept[-1]._replace(fingerprint="g"), row("new")])
    sealed = listings.seal(db, NAME, second)
    assert [(each.kind, each.name) for each in sealed.differences] == [
        ("removed", many[0]),
        ("changed", many[-1]),
        ("added", "new"),
    ]


# -- mounts and the map


def test_generations_grow_over_removals(db: sqlite3.Connection) -> None:
    assert records.next_generation(db, "m") == 2
    assert records.next_generation(db, "other") == 1
    records.remove_mount(db, "m")
    assert records.next_generation(db, "m") == 2


def test_the_table_comes_back_as_it_was_stored_and_its_revision_only_grows(db: sqlite3.Connection) -> None:
    stored = records.load_mounts(db)
    assert (stored.mounts, stored.origins, stored.revision) == ((MOUNT,), {"m": "api"}, 1)
    assert records.remove_mount(db, "m") == 2
    assert records.load_mounts(db).mounts == ()


def test_a_record_that_cannot_be_read_is_an_error(db: sqlite3.Connection) -> None:
    db.execute("UPDATE mounts SET record = '{}'")
    with pytest.raises(InternalError):
        records.load_mounts(db)


def cluster_map(epoch: int, revision: int) -> ClusterMap:
    member = Member(member_id="w", role="worker", tcp="h:1")
    return ClusterMap(cluster_id="c", epoch=epoch, revision=revision, members=(member,))


def test_the_stored_epoch_never_falls(db: sqlite3.Connection) -> None:
    assert records.load_map(db) is None
    records.save_map(db, cluster_map(5, 10))
    assert records.load_map(db) == cluster_map(5, 10)
    records.save_map(db, cluster_map(4, 11))
    assert records.load_map(db) == cluster_map(5, 11)
