"""The metadata cache: bounded, expiring, and never going back in time."""

from forebay.client.metadata import GUARD_S, MetadataCache
from forebay.contracts import Entry, ListReply, LookupReply
from forebay.errors import NotFound


def reply(name: str, *, synced_at_s: float = 100.0, valid_s: float | None = None) -> LookupReply:
    entry = Entry(name=name, kind="file", inode=7, mode=0o444, mtime_ns=0)
    return LookupReply(entry=entry, mount_id="m", synced_at_s=synced_at_s, valid_s=valid_s)


def cache(entries_max: int = 3) -> MetadataCache:
    return MetadataCache(entries_max=entries_max, expire_s=60.0, negative_s=1.0)


def test_an_answer_is_used_until_it_expires() -> None:
    held = cache()
    held.put("/a", reply("a"), 0.0)
    found = held.get("/a", 59.0)
    assert found is not None
    assert found.reply == reply("a")
    assert held.get("/a", 60.0) is None


def test_the_servers_time_shortens_ours() -> None:
    held = cache()
    held.put("/a", reply("a", valid_s=5.0), 0.0)
    assert held.get("/a", 4.9) is not None
    assert held.get("/a", 5.0) is None


def test_an_always_consistent_answer_is_never_reused() -> None:
    held = cache()
    held.put("/a", reply("a", valid_s=0.0), 0.0)
    assert held.get("/a", 0.0) is None


def test_an_older_answer_never_replaces_a_newer_one_even_after_it_expired() -> None:
    held = cache()
    held.put("/a", reply("new", synced_at_s=200.0), 0.0)
    assert held.put("/a", reply("old", synced_at_s=150.0), 61.0).entry.name == "new"
    assert held.put("/a", reply("newer", synced_at_s=200.0), 61.0).entry.name == "newer"


def test_a_missing_path_is_remembered_for_a_short_time() -> None:
    held = cache()
    held.put_missing("/a", NotFound("x"), 0.0, synced_at_s=1.0)
    found = held.get("/a", 0.5)
    assert found is not None
    assert found.reply is None
    assert held.get("/a", 1.0) is None


def test_the_servers_time_shortens_that_of_a_missing_path() -> None:
    held = cache()
    held.put_missing("/a", NotFound("x", valid_s=0.25), 0.0, synced_at_s=1.0)
    assert held.get("/a", 0.2) is not None
    assert held.get("/a", 0.25) is None


def test_an_old_not_found_does_not_hide_a_newer_answer() -> None:
    held = cache()
    held.put("/a", reply("a", synced_at_s=200.0), 0.0)
    held.put_missing("/a", NotFound("x"), 0.0, synced_at_s=199.0)
    found = held.get("/a", 1.0)
    assert found is not None
    assert found.reply is not None


def test_the_least_recently_used_goes_first() -> None:
    held = cache(entries_max=2)
    held.put("/a", reply("a"), 0.0)
    held.put("/b", reply("b"), 0.0)
    held.get("/a", 1.0)
    held.put("/c", reply("c"), 1.0)
    assert held.get("/b", 1.0) is None
    assert held.get("/a", 1.0) is not None
    held.validate()


def test_a_forgotten_path_misses_and_still_guards_against_older_answers() -> None:
    held = cache()
    held.put("/a", reply("a", synced_at_s=200.0), 0.0)
    held.expire("/a")
    assert held.get("/a", 0.0) is None
    assert held.put("/a", reply("old", synced_at_s=100.0), 0.0).entry.name == "a"


def test_what_is_given_out_says_how_much_time_is_left() -> None:
    held = cache()
    held.put("/a", reply("a", valid_s=10.0), now_s=0.0)
    found = held.get("/a", 4.0)
    assert found is not None
    assert found.reply is not None
    assert found.reply.valid_s == 6.0
    # and asking does not begin the time anew
    again = held.get("/a", 7.0)
    assert again is not None
    assert again.reply is not None
    assert again.reply.valid_s == 3.0


def test_a_missing_name_says_how_much_time_is_left() -> None:
    held = cache()
    held.put_missing("/a", NotFound("no", valid_s=3.0), 0.0, synced_at_s=1.0)
    found = held.get("/a", 0.5)
    assert found is not None
    assert found.missing is not None
    assert found.missing.details["valid_s"] == 2.5


def test_what_is_of_no_use_is_swept_but_first_guards_for_a_while() -> None:
    held = cache()
    held.put("/a", reply("a", synced_at_s=200.0), 0.0)
    held.sweep(60.0)
    assert held.put("/a", reply("old", synced_at_s=150.0), 61.0).entry.name == "a"
    assert len(held) == 1
    held.sweep(60.0 + GUARD_S)
    assert len(held) == 0
    held.validate()


def test_a_page_is_held_entry_by_entry_and_never_replaces_what_is_newer() -> None:
    held = cache()
    held.put("/d/b", reply("newer", synced_at_s=300.0), 0.0)
    entries = tuple(reply(name).entry for name in ("a", "b"))
    page = ListReply(entries=entries, mount_id="m", next_page_token=None, synced_at_s=200.0, valid_s=9.0)
    held.put_page("/d", page, 0.0)
    names = []
    for path in ("/d/a", "/d/b"):
        found = held.get(path, 1.0)
        assert found is not None
        assert found.reply is not None
        names.append((found.reply.entry.name, found.reply.valid_s))
    assert names == [("a", 8.0), ("newer", None)]
