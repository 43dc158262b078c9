"""The demo's dataset: framing, checksums, records."""

from __future__ import annotations

import struct

import pytest

from bench import demo_data

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20 + b"\xff\xd9"


def test_the_masked_checksum_is_the_one_of_the_format() -> None:
    # CRC32C of 32 zero bytes is 0x8a9136aa (RFC 3720, B.4); masked: rotated right by 15, plus 0xa282ead8.
    crc = 0x8A9136AA
    assert demo_data.masked_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_come_back_and_are_counted() -> None:
    data = b"".join(demo_data.frame(body) for body in (b"", b"a", b"b" * 1000))
    assert [bytes(r) for r in demo_data.records(data)] == [b"", b"a", b"b" * 1000]
    assert demo_data.count_records(memoryview(data)) == 3


def test_a_changed_byte_or_a_torn_end_is_noticed() -> None:
    data = bytearray(demo_data.frame(b"hello world"))
    data[14] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        list(demo_data.records(bytes(data)))
    with pytest.raises(ValueError, match="no record"):
        list(demo_data.records(demo_data.frame(b"hello world")[:-6]))


def test_an_example_holds_image_label_and_name() -> None:
    example = demo_data.example(JPEG, 999, "a.jpg")
    for part in (b"image/encoded", JPEG, b"image/class/label", b"image/filename", b"a.jpg"):
        assert part in example
    assert example[0] == 0x0A


def test_shards_reach_their_size_and_no_two_images_are_alike() -> None:
    files = list(demo_data.dataset([JPEG], shards=2, shard_bytes=50_000, small_files=3))
    assert [f.path for f, _ in files][:2] == [
        "train/part-00000-of-00002.tfrecord",
        "train/part-00001-of-00002.tfrecord",
    ]
    bodies = [bytes(r) for f, body in files if f.is_shard for r in demo_data.records(body)]
    assert len(set(bodies)) == len(bodies)
    assert all(f.size == len(body) for f, body in files)
    assert all(f.size >= 50_000 for f, _ in files if f.is_shard)
    assert len({body for f, body in files if not f.is_shard}) == 3


def test_a_commented_jpeg_keeps_its_markers() -> None:
    out = demo_data.commented(JPEG, "note")
    assert out[:4] == b"\xff\xd8\xff\xfe"
    assert struct.unpack_from(">H", out, 4)[0] == 6
    assert out[10:] == JPEG[2:]
