"""Shards in a folder for tests of what reads them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from forebay.data.tfrecord import frame


def record(shard: int, number: int) -> bytes:
    """A record that names itself, of a length of its own."""
    return f"{shard}/{number}:".encode() + bytes((shard * 7 + number) % 251 for _ in range(number * 37 % 500))


def tfrecord_shards(folder: Path, *, shards: int, records: int) -> list[str]:
    """Names of new shards; shard k has ``records + k`` records."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        body = b"".join(frame(record(shard, n)) for n in range(records + shard))
        (folder / f"part-{shard:03}.tfrecord").write_bytes(body)
    return [f"part-{shard:03}.tfrecord" for shard in range(shards)]


def all_records(*, shards: int, records: int) -> set[bytes]:
    """What ``tfrecord_shards`` wrote."""
    return {record(s, n) for s in range(shards) for n in range(records + s)}


def tar_bytes(samples: int, *, long_names: bool = False) -> bytes:
    """A tar of samples of two files each."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for n in range(samples):
            stem = ("long-" * 40 if long_names else "") + f"{n:04}"
            for suffix, body in (("jpg", bytes([n % 256]) * (n * 101 % 3000)), ("cls.txt", str(n).encode())):
                info = tarfile.TarInfo(f"train/{stem}.{suffix}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
    return out.getvalue()
