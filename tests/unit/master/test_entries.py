"""From an under store's description to an entry with its layout."""

from __future__ import annotations

from forebay.contracts import Mount, UfsOptions, identity
from forebay.ufs import UfsDir, UfsFile, UfsUri
from forebay_master.entries import Origin, given_directory

URI = UfsUri.parse("s3://bucket/prefix")
MOUNT = Mount(
    mount_id="m",
    generation=1,
    path="/data",
    ufs_uri=str(URI),
    ufs_id=URI.ufs_id(UfsOptions()),
    block_size=8 << 20,
)
FILE = UfsFile("train/a.bin", 123, 456, "etag", 0o644)


def test_a_file_has_the_layout_that_workers_derive() -> None:
    origin = Origin.of(MOUNT, "train")
    row = origin.row(FILE)
    assert row is not None
    entry = origin.entries([row])[0]
    assert entry.layout is not None
    assert entry.layout.key == "train/a.bin"
    assert entry.layout.version_id == URI.version_id(UfsOptions(), "train/a.bin", "etag")
    assert (entry.layout.size, entry.layout.fingerprint, entry.layout.block_size) == (123, "etag", 8 << 20)
    assert (entry.name, entry.kind, entry.size, entry.mtime_ns, entry.mode) == ("a.bin", "file", 123, 456, 0o644)
    assert entry.inode == identity.inode_number("/data", "train/a.bin")


def test_files_at_the_roots_have_whole_keys_too() -> None:
    for uri, key in (("s3://bucket", "a"), ("s3://bucket/p", "a"), ("file:///", "a")):
        parsed = UfsUri.parse(uri)
        mount = Mount(mount_id="m", generation=1, path="/", ufs_uri=uri, ufs_id=parsed.ufs_id(UfsOptions()))
        origin = Origin.of(mount, "")
        row = origin.row(UfsFile(key, 1, 1, "f"))
        assert row is not None
        layout = origin.entries([row])[0].layout
        assert layout is not None
        assert layout.version_id == parsed.version_id(UfsOptions(), key, "f")


def test_a_directory_has_no_layout() -> None:
    origin = Origin.of(MOUNT, "")
    row = origin.row(UfsDir("train", 7))
    assert row is not None
    entry = origin.entries([row])[0]
    assert (entry.kind, entry.layout, entry.mode, entry.mtime_ns) == ("dir", None, 0o555, 7)


def test_setuid_and_file_type_bits_are_not_passed_on() -> None:
    row = Origin.of(MOUNT, "").row(UfsFile("a", 1, 1, "f", 0o104755))
    assert row is not None
    assert row.mode == 0o755


def test_what_no_reply_can_carry_is_left_out() -> None:
    origin = Origin.of(MOUNT, "")
    for found in (
        UfsFile("a", 1, 1, ""),
        UfsFile("a", 1, 1, "f" * 256),
        UfsFile("a", -1, 1, "f"),
        UfsFile("a", 1 << 63, 1, "f"),
        UfsFile("a", 1, 1 << 64, "f"),
        UfsDir("a", -(1 << 64)),
    ):
        assert origin.row(found) is None


def test_a_directory_that_mounts_make_is_named_by_its_last_part() -> None:
    assert given_directory("/a/b").name == "b"
    assert given_directory("/").name == ""
