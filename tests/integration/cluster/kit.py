"""Clusters over S3 and ZooKeeper, and what tests ask of them."""

from __future__ import annotations

import hashlib
import random
import re
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from forebay.cli.sources import SourceOptions
from forebay.testing.cluster import Cluster, eventually
from forebay.testing.s3 import REGION, S3Server

MIB = 1 << 20
EXTENT_BYTES = 4 * MIB
BLOCK_BYTES = 8 * MIB
READERS_AT_ONCE = 4
MAX_AGE_S = 1


def dataset(seed: int = 5) -> dict[str, bytes]:
    """Objects of all sizes that matter: blocks and extents not filled, filled and crossed; one empty; odd names."""
    rng = random.Random(seed)
    sizes = (
        1,
        4096,
        EXTENT_BYTES - 1,
        EXTENT_BYTES,
        EXTENT_BYTES + 1,
        BLOCK_BYTES,
        BLOCK_BYTES + 1,
        3 * BLOCK_BYTES + 7,
    )
    objects = {f"shards/part-{number}.bin": rng.randbytes(size) for number, size in enumerate(sizes)}
    small = {f"labels/klasse {number}/ü✓.txt": rng.randbytes(100 + number) for number in range(20)}
    return {**objects, **small, "empty": b""}


def s3_cluster(
    server: S3Server, bucket: str, *, prefix: str = "data", mounts: int = 1, env: Mapping[str, str] | None = None,
    extra: Mapping[str, tuple[str, ...]] | None = None, **changes: object,
) -> Cluster:  # fmt: skip
    """Two workers over a prefix of a bucket; names are looked up anew every ``MAX_AGE_S``."""
    options = SourceOptions(endpoint=server.endpoint, region=REGION, path_style=True)
    flags = {"master": ("--block-size", str(BLOCK_BYTES), "--max-age-s", str(MAX_AGE_S))}
    flags["gateway"] = ("--entry-timeout", str(MAX_AGE_S), "--attr-timeout", str(MAX_AGE_S))
    for name, more in (extra or {}).items():
        flags[name] = (*flags.get(name, ()), *more)
    environ = {**server.env, **(env or {})}
    spec = Cluster.spec(f"s3://{bucket}/{prefix}", workers=2, options=options, environ=environ, extra=flags, **changes)
    return Cluster(spec, mounts=mounts)


def fill_bucket(server: S3Server, objects: Mapping[str, bytes], *, prefix: str = "data") -> str:
    """A new bucket with these objects below the prefix; its name."""
    bucket = f"e2e-{secrets.token_hex(4)}"
    server.make_bucket(bucket)
    server.admin.put_many(bucket, {f"{prefix}/{key}": body for key, body in objects.items()})
    return bucket


def digests_of(objects: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 by name."""
    return {key: hashlib.sha256(body).hexdigest() for key, body in objects.items()}


def digests(mount: Path) -> dict[str, str]:
    """SHA-256 of every file of a mount, read by several at once, past what the kernel kept."""
    Path("/proc/sys/vm/drop_caches").write_text("1")
    files = [p for p in mount.rglob("*") if p.is_file()]
    with ThreadPoolExecutor(READERS_AT_ONCE) as pool:
        found = list(pool.map(digest, files))
    return {str(p.relative_to(mount)): d for p, d in zip(files, found, strict=True)}


def digest(path: Path) -> str:
    """SHA-256 of one file."""
    hashed = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(MIB):
            hashed.update(piece)
    return hashed.hexdigest()


def total(cluster: Cluster, name: str, **labels: str) -> float:
    """The sum of a metric's samples over all workers that run."""
    found = 0.0
    for worker in (n for n, child in cluster.local.children.items() if n.startswith("worker") and child.running):
        for sample, value in cluster.metrics(worker).items():
            wanted = [f'{key}="{text}"' for key, text in labels.items()]
            if re.split(r"[{]", sample)[0] == name and all(text in sample for text in wanted):
                found += value
    return found


def at_rest(cluster: Cluster) -> None:
    """Waits until no worker fills anything."""
    eventually(
        lambda: total(cluster, "forebay_worker_fills_in_flight") + total(cluster, "forebay_worker_fillings") == 0,
        what="fills to end",
        timeout_s=30,
    )
