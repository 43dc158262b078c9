"""Where each mode of the table reads its shards, and counters of the kernel and the workers that prove it.

*direct-s3*: ranged GETs of an S3 server on this host, no cache. *local-disk*: a copy on a disk, not in the page cache.
*mount* and *sdk*: a cluster that holds the dataset (`bench.train_cluster`), a quarter of it in a tier of this host.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.train_cliff import BUCKET, PREFIX, served
from bench.train_cluster import UNTUNED, Mounted, mounted
from bench.train_job import ONE_THREAD, TUNED_INPUT, Job
from forebay.data import ByteSource, Files, FolderFiles, SdkFiles, StreamOptions
from forebay.data.places import Shape
from forebay.testing.s3 import S3Admin

MODES = ("synthetic", "direct-s3", "local-disk", "mount", "sdk")
PART_BYTES = 8 << 20
"""Of one GET: such parts are what S3 clients for training fetch by default."""

UNTUNED_SDK: dict[str, Any] = {
    "metadata_cache": False,
    "location_policy": "local-first",
    "read_type": "CACHE_PROMOTE",
    "update_access_time": True,
}
"""The untuned switches that the SDK has."""

PROVED_SHARE = 0.9


@dataclass(frozen=True)
class Objects:
    """Objects of a bucket as files, by ranged GETs; ``folder`` has the same files and tells their sizes."""

    admin: S3Admin
    folder: Path

    @property
    def shape(self) -> Shape:
        """As ``Files.shape``."""
        return Shape(piece_bytes=PART_BYTES)

    def open(self, path: str) -> ByteSource:
        """As ``Files.open``: nothing is asked for yet."""
        return _Object(self.admin, f"{PREFIX}/{path}", (self.folder / path).stat().st_size)

    def names(self, folder: str = "") -> list[str]:
        """As ``Files.names``."""
        return FolderFiles(self.folder).names(folder)

    def hint(self, paths: Sequence[str], *, epoch: int, seed: int, rank: int, is_next: bool = False) -> None:
        """Nobody can make use of it."""


@dataclass(frozen=True)
class _Object:
    admin: S3Admin
    key: str
    size: int

    def read_into(self, offset: int, buffer: memoryview) -> int:
        length = min(len(buffer), self.size - offset)
        if length > 0:
            buffer[:length] = self.admin.get_range(BUCKET, self.key, offset, length)
        return max(0, length)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Came:
    """Bytes by the counters of others than the one who reads: what the loopback network carried, what this process had
    fetched from a device, what the workers sent."""

    loopback: float = 0.0
    device: float = 0.0
    sent: float = 0.0

    def since(self, before: Came, read: float) -> Came:
        """In shares of the bytes read."""
        mine, theirs = vars(self), vars(before)
        return Came(**{name: round((mine[name] - theirs[name]) / read, 3) for name in mine})


@dataclass(frozen=True)
class Places:
    """The files of each mode."""

    files: dict[str, Files]
    inputs: dict[str, StreamOptions] = field(default_factory=dict)
    cluster: Mounted | None = None

    def came(self) -> Came:
        """Now."""
        loopback = Path("/proc/net/dev").read_text().partition("lo:")[2].split()[0]
        device = Path("/proc/self/io").read_text().partition("\nread_bytes:")[2].split()[0]
        return Came(float(loopback), float(device), self.cluster.sent() if self.cluster is not None else 0.0)


def check(mode: str, came: Came) -> None:
    """Raises RuntimeError if the bytes of a mode came from elsewhere than it says."""
    found = {"direct-s3": came.loopback, "local-disk": came.device}.get(mode, 1.0)
    if found < PROVED_SHARE:
        raise RuntimeError(f"{mode}: only {found:.0%} of the bytes came from there ({came})")


def disk() -> str:
    """A folder on a disk: ``FOREBAY_BENCH_DISK`` if /var/tmp is none."""
    return os.environ.get("FOREBAY_BENCH_DISK", "/var/tmp")


@contextmanager
def places(made: Job, modes: Sequence[str], *, untuned: bool) -> Iterator[Places]:
    """Those of ``modes``; clusters and servers of other modes are not started."""
    plain = ONE_THREAD if untuned else TUNED_INPUT
    files: dict[str, Files] = {}
    inputs, cluster = dict.fromkeys(MODES, plain), None
    with ExitStack() as stack:
        if "local-disk" in modes:
            files["local-disk"] = FolderFiles(stack.enter_context(_copy(made)))
        if "direct-s3" in modes:
            s3, _ = stack.enter_context(served(made))
            files["direct-s3"] = Objects(s3.admin, made.folder)
            inputs["direct-s3"] = replace(plain, piece_bytes=None)  # a GET is no read of a file: one part at a time
        if {"mount", "sdk"} & set(modes):
            cluster = stack.enter_context(mounted(made, switches=tuple(UNTUNED) if untuned else ()))
            cluster.spread()
            cluster.warm()
            sdk = SdkFiles(replace(cluster.sdk().options, **UNTUNED_SDK)) if untuned else cluster.sdk()
            stack.callback(sdk.close)
            files |= {"mount": cluster.files(), "sdk": sdk}
        yield Places(files, inputs, cluster)


@contextmanager
def _copy(made: Job) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="forebay-train-", dir=disk()) as text:
        for name in made.names:
            target = Path(shutil.copy(made.folder / name, text))
            with target.open("rb") as file:
                os.fsync(file.fileno())  # what is not written yet cannot be dropped from the page cache
        yield Path(text)
