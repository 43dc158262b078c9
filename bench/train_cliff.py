"""A cache smaller than the dataset, with order hints: throughput against what a perfect overlap of misses would give.

The under store is an S3 server behind a proxy that bounds its bandwidth. If the share *h* of the bytes is in the cache
when it is asked for, the rest must come over that bandwidth: images/s are at most bandwidth / (1 - h) in bytes, and at
most what the same cluster gives when all is cached. *Direct S3* reads the same objects through the same proxy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from bench.figures import Figure, Options, environment, say
from bench.memory import drop_caches, kept_memory
from bench.train_cluster import mounted
from bench.train_job import TUNED_INPUT, Job, job
from forebay.cli.sources import SourceOptions
from forebay.testing.faults import FaultProxy, Faults
from forebay.testing.s3 import REGION, S3Admin, S3Server

BUCKET, PREFIX = "train", "data"
BANDWIDTH = 60e6
"""Bytes a second of the under store, for everybody together."""

SHARDS = 96
"""Nine hundred blocks: more than a worker has room for is many, and an epoch is long against its beginning."""

DIRECT_SHARDS = 24
"""Enough to tell what the under store gives directly."""

EPOCHS = 3
"""Measured, after one that fills the cache. The first has no order before it that told of it; what is fetched for the
epoch after the last is of no use: both count."""

DIRECT_STREAMS = 8
BLOCK = 4 << 20
"""Small, so that what a worker holds is many blocks, as it is with a real dataset."""

SMALL_BLOCKS = {"master": ("--block-size", str(BLOCK))}
KEPT_SHARE = 2.2
"""Room for the tiers and the page cache, in datasets, kept from the host of a virtual machine."""

GOAL = 0.95
FAST = Faults()


@contextmanager
def served(made: Job) -> Iterator[tuple[S3Server, FaultProxy]]:
    """The job's shards as objects, near and fast until the proxy is told otherwise."""
    with S3Server(folder=Path("/dev/shm")) as s3:
        s3.make_bucket(BUCKET)
        for name in made.names:
            s3.put(BUCKET, f"{PREFIX}/{name}", (made.folder / name).read_bytes())
        with FaultProxy(s3.endpoint.removeprefix("http://")) as proxy:
            yield s3, proxy


def direct(made: Job, endpoint: str) -> float:
    """MB/s of plain GETs of shards, several at once."""
    admin = S3Admin(endpoint)
    began = time.monotonic()
    with ThreadPoolExecutor(DIRECT_STREAMS) as pool:
        got = sum(pool.map(lambda name: len(admin.get(BUCKET, f"{PREFIX}/{name}")), made.names[:DIRECT_SHARDS]))
    took_s = time.monotonic() - began
    admin.close()
    return got / 1e6 / took_s


def reached(made: Job, s3: S3Server, proxy: FaultProxy, share: float) -> dict[str, Any]:
    """MB/s of epochs that begin with a full cache, with hints and without."""
    source = f"s3://{BUCKET}/{PREFIX}"
    how = SourceOptions(endpoint=f"http://{proxy.address}", region=REGION, path_style=True)
    found: dict[str, Any] = {}
    with mounted(made, room=share, source=source, options=how, environ=s3.env, extra=SMALL_BLOCKS) as mount:
        files = mount.files()
        proxy.faults = FAST
        made.run(files, 0.0, epoch=0)
        proxy.faults = Faults(shared_bytes_per_s=BANDWIDTH)
        rates, fetched = [], mount.total("forebay_ufs_read_bytes_total")
        for epoch in range(1, 1 + EPOCHS):
            drop_caches()
            rates.append(made.mbps(made.run(files, 0.0, epoch=epoch, options=TUNED_INPUT)))
            say(f"train: cache {share}: {rates[-1]:.0f} MB/s")
        fetched = mount.total("forebay_ufs_read_bytes_total") - fetched
        found |= {"MBps": rates, "fetched_share": round(fetched / EPOCHS / made.bytes, 3), "held": mount.held()}
        proxy.faults = FAST
    return found


def cached(made: Job) -> float:
    """MB/s of the same cluster when all is cached."""
    with mounted(made, room=8.0, extra=SMALL_BLOCKS) as mount:
        made.run(mount.files(), 0.0)
        drop_caches()
        return made.mbps(made.run(mount.files(), 0.0, epoch=1))


@cache
def cliff(options: Options, share: float) -> Mapping[str, Any]:
    """Of one share of the dataset."""
    with job(options, shards=SHARDS) as made, served(made) as (s3, proxy), kept_memory(int(KEPT_SHARE * made.bytes)):
        whole = cached(made)
        found = reached(made, s3, proxy, share)
        proxy.faults = Faults(shared_bytes_per_s=BANDWIDTH)
        plain = direct(made, f"http://{proxy.address}")
        bound = min(whole, plain / (1 - share))
        rate = sum(found["MBps"]) / len(found["MBps"])
        return {
            **found,
            "direct_s3_MBps": round(plain, 1),
            "cached_MBps": round(whole, 1),
            "bound_MBps": round(bound, 1),
            "bandwidth_MBps": BANDWIDTH / 1e6,
            "rate": rate,
            "dataset_MB": round(made.bytes / 1e6),
        }


def _figure(options: Options, name: str, share: float) -> Figure:
    found = cliff(options, share)
    if found["rate"] < found["direct_s3_MBps"] and not options.quick:
        say(f"train: {name} is below direct S3")
    return Figure("train", name, found["rate"] / found["bound_MBps"], "ratio", GOAL, detail={**found, **environment()})


def cliff_0835(options: Options) -> Figure:
    """Cache/dataset = 0.835."""
    return _figure(options, "cliff_0835", 0.835)


def cliff_050(options: Options) -> Figure:
    """Cache/dataset = 0.5."""
    return _figure(options, "cliff_050", 0.5)


FIGURES = {"cliff_0835": cliff_0835, "cliff_050": cliff_050}
