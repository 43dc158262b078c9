"""The demo's dataset: TFRecord shards of JPEG images and a folder of small files, made from photographs.

TFRecord framing (TensorFlow, "TFRecord file format details"): length as uint64, masked CRC32C of it, the data, masked
CRC32C of them, all little endian; the mask rotates the CRC right by 15 bits and adds 0xa282ead8. Each record is a
``tf.train.Example`` with image/encoded, image/class/label and image/filename, encoded by hand (three features of a
protocol buffer). Each image appears in several records, made different by a JPEG comment.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from forebay.testing.tools import ToolMissing, tools_dir

SHARD_BYTES = 64 << 20
SHARDS = 8
SMALL_FILES = 500
IMAGES = 300
SEED = 20
MASK_DELTA = 0xA282EAD8
LABELS = 1000
HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")


@dataclass(frozen=True)
class DataFile:
    """A file of the dataset by its path below the root. ``sha256`` is known when we wrote it ourselves."""

    path: str
    size: int
    sha256: str | None = None

    @property
    def is_shard(self) -> bool:
        """Whether it holds TFRecords."""
        return ".tfrecord" in self.path


def make_images(folder: Path, count: int = IMAGES) -> list[bytes]:
    """JPEG images from the tools' photographs.

    Raises:
        ToolMissing: the tools' Python or the photographs are not there.
    """
    parts = tools_dir() / "parts"
    found = sorted(parts.glob("lib/python3*/site-packages/skimage/data"))
    python, out = parts / "bin" / "python", folder / "images.bin"
    if not python.exists() or not found:
        raise ToolMissing(f"no Python with scikit-image and pillow in {parts}; run `make demo` or `make setup`")
    script = Path(__file__).with_name("demo_images.py")
    subprocess.run([python, script, found[0], out, str(count), str(SEED)], check=True)
    images = list(_unpack(out.read_bytes()))
    out.unlink()
    return images


def _unpack(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        yield data[at + 4 : at + 4 + length]
        at += 4 + length


def masked_crc(data: bytes) -> int:
    """The masked CRC32C of TFRecord framing."""
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + MASK_DELTA) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """One TFRecord."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, FOOTER.pack(masked_crc(length)), data, FOOTER.pack(masked_crc(data))))


def records(data: bytes | memoryview) -> Iterator[memoryview]:
    """The records of a shard, both checksums checked; raises ValueError on a wrong one or a torn end."""
    view, at = memoryview(data), 0
    while at < len(view):
        length, length_crc = HEADER.unpack_from(view, at)
        body = view[at + HEADER.size : at + HEADER.size + length]
        end = at + HEADER.size + length
        if masked_crc(bytes(view[at : at + 8])) != length_crc or len(body) != length:
            raise ValueError(f"no record at byte {at}")
        if FOOTER.unpack_from(view, end)[0] != masked_crc(bytes(body)):
            raise ValueError(f"wrong checksum of the record at byte {at}")
        yield body
        at = end + FOOTER.size


def count_records(data: memoryview) -> int:
    """How many records a shard holds, by their lengths alone."""
    count = at = 0
    while at + HEADER.size <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        at += HEADER.size + int(length) + FOOTER.size
        count += 1
    return count


def example(image: bytes, label: int, name: str) -> bytes:
    """A ``tf.train.Example`` (protocol buffer): Example{1: Features{1: map<string, Feature>}}."""
    features = (
        _entry("image/encoded", _field(1, _field(1, image)))
        + _entry("image/class/label", _field(3, _field(1, _varint(label))))
        + _entry("image/filename", _field(1, _field(1, name.encode())))
    )
    return _field(1, features)


def _entry(key: str, feature: bytes) -> bytes:
    return _field(1, _field(1, key.encode()) + _field(2, feature))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def commented(image: bytes, text: str) -> bytes:
    """The JPEG with a comment segment after its first marker: another file, the same picture."""
    comment = text.encode()
    return image[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + image[2:]


def shard(images: list[bytes], number: int, size: int) -> bytes:
    """Shard ``number``, of at least ``size`` bytes."""
    out, total, nth = [], 0, 0
    while total < size:
        name = f"{number:03d}-{nth:06d}.jpg"
        image = commented(images[(number * 31 + nth) % len(images)], name)
        out.append(frame(example(image, (number * 7919 + nth) % LABELS, name)))
        total += len(out[-1])
        nth += 1
    return b"".join(out)


def dataset(
    images: list[bytes], *, shards: int, shard_bytes: int, small_files: int
) -> Iterator[tuple[DataFile, bytes]]:
    """All files with their bytes, one at a time."""
    for number in range(shards):
        yield _named(f"train/part-{number:05d}-of-{shards:05d}.tfrecord", shard(images, number, shard_bytes))
    for number in range(small_files):
        body = commented(images[number % len(images)], f"small {number}")
        yield _named(f"val/{number:05d}.jpg", body)


def _named(path: str, body: bytes) -> tuple[DataFile, bytes]:
    return DataFile(path, len(body), hashlib.sha256(body).hexdigest()), body
