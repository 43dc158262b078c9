"""The peers of the gateway bench: JuiceFS, ``rclone mount`` and s3fs over one real S3 server, mounted as they are best.

Each has its cache on tmpfs, warm; what it was told is in ``Peer.told``. They run in the foreground and end with us:
politely (they unmount), and by the kernel when we are killed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from forebay.cli.cluster import detach_dead
from forebay.testing.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server
from forebay.testing.tools import Process, tool

BUCKET = "bench"
DATA = "data"
READY_TIMEOUT_S = 30
COMMAND_TIMEOUT_S = 120


@dataclass(frozen=True)
class Peer:
    """A mount of somebody else. ``folder`` has the files; ``told`` is its command line without paths and secrets."""

    name: str
    folder: Path
    told: str


@contextmanager
def mounted(name: str, command: Sequence[str | Path], mount: Path, work: Path, told: Sequence[str]) -> Iterator[Peer]:
    """Starts a peer in the foreground, waits for its mount, and takes both away again."""
    mount.mkdir(parents=True)
    folder = work / f"{name}-log"
    folder.mkdir()
    process = Process(command, folder=folder, env={**os.environ, **_ENV})
    try:
        process.wait_ready(lambda: os.path.ismount(mount), READY_TIMEOUT_S)
        yield Peer(name, mount, " ".join(told))
    finally:
        process.stop()
        if not detach_dead(mount) and os.path.ismount(mount):
            subprocess.run(["umount", "-l", str(mount)], check=False, timeout=COMMAND_TIMEOUT_S)


_ENV = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_EC2_METADATA_DISABLED": "true"}

JUICEFS = (
    *("--cache-size", "16G", "--free-space-ratio", "0.01", "--verify-cache-checksum", "none"),
    *("--cache-eviction", "none", "--open-cache", "1h", "--open-cache-limit", "0"),
    *("--attr-cache", "1h", "--entry-cache", "1h", "--dir-entry-cache", "1h", "--readdir-cache"),
    *("--max-fuse-io", "1M", "--buffer-size", "1024", "--fast-statfs", "--no-bgjob", "--backup-meta", "0"),
)


@contextmanager
def juicefs(s3: S3Server, source: Path, work: Path) -> Iterator[Peer]:
    """JuiceFS Community with SQLite; it has a format of its own, so the files are copied in through it."""
    program, meta = str(tool("juicefs")), f"sqlite3://{work}/juicefs.db"
    keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
    shape = ["--trash-days", "0", "--block-size", "16M", "--compress", "none"]
    bucket = ["--storage", "s3", "--bucket", f"{s3.endpoint}/{BUCKET}-juicefs"]
    run = [program, "format", *bucket, *keys, *shape, meta, "bench"]
    s3.make_bucket(f"{BUCKET}-juicefs")
    subprocess.run(run, check=True, capture_output=True, timeout=COMMAND_TIMEOUT_S)
    cache = ["--cache-dir", str(work / "juicefs-cache")]
    quiet = ["--no-usage-report", "--no-syslog", "--metrics", "127.0.0.1:0"]
    mount = work / "juicefs"
    command: list[str | Path] = [program, "mount", *quiet, *cache, *JUICEFS, meta, mount]
    with mounted("juicefs", command, mount, work, ["juicefs mount", *shape, *JUICEFS]) as peer:
        shutil.copytree(source, mount, dirs_exist_ok=True)
        yield peer


RCLONE = (
    *("--vfs-cache-mode", "full", "--vfs-cache-max-age", "24h", "--vfs-cache-poll-interval", "0"),
    *("--vfs-fast-fingerprint", "--no-modtime", "--no-checksum", "--read-only", "--poll-interval", "0"),
    *("--dir-cache-time", "24h", "--attr-timeout", "1h", "--max-read-ahead", "4Mi", "--buffer-size", "0"),
    *("--vfs-handle-caching", "1h"),
)


@contextmanager
def rclone(s3: S3Server, source: Path, work: Path) -> Iterator[Peer]:
    """``rclone mount``."""
    remote = (
        f":s3,provider=SeaweedFS,env_auth=true,region={REGION},force_path_style=true,endpoint='{s3.endpoint}'"
        f":{BUCKET}/{DATA}"
    )
    mount, cache = work / "rclone", ["--cache-dir", str(work / "rclone-cache"), "--config", "/dev/null"]
    command: list[str | Path] = [tool("rclone"), "mount", remote, mount, *cache, *RCLONE]
    with mounted("rclone", command, mount, work, ["rclone mount", *RCLONE]) as peer:
        yield peer


S3FS = (
    *("max_stat_cache_size=1000000", "stat_cache_expire=86400", "enable_noobj_cache", "notsup_compat_dir"),
    *("kernel_cache", "entry_timeout=3600", "attr_timeout=3600", "max_background=64", "ro"),
)


@contextmanager
def s3fs(s3: S3Server, source: Path, work: Path) -> Iterator[Peer]:
    """s3fs with ``use_cache``."""
    secret = work / "s3fs-passwd"
    secret.touch(0o600)
    secret.write_text(f"{ACCESS_KEY}:{SECRET_KEY}\n")
    (work / "s3fs-cache").mkdir()
    ways = [f"passwd_file={secret}", f"url={s3.endpoint}", "use_path_request_style", f"endpoint={REGION}"]
    options = [*ways, f"use_cache={work / 's3fs-cache'}", *S3FS]
    mount = work / "s3fs"
    command: list[str | Path] = [
        "s3fs",
        "-f",
        f"{BUCKET}:/{DATA}",
        mount,
        *(part for o in options for part in ("-o", o)),
    ]
    with mounted("s3fs", command, mount, work, ["s3fs -o use_cache", *S3FS]) as peer:
        yield peer


def batched(paths: Sequence[Path], count: int) -> Iterator[Sequence[Path]]:
    """Some at a time."""
    for start in range(0, len(paths), count):
        yield paths[start : start + count]


PEERS: dict[str, Callable[[S3Server, Path, Path], AbstractContextManager[Peer]]] = {
    "juicefs": juicefs,
    "rclone": rclone,
    "s3fs": s3fs,
}


@contextmanager
def peers(source: Path, work: Path) -> Iterator[list[Peer]]:
    """All peers with the files of ``source``, cold; whoever reads them through a peer warms it."""
    with ExitStack() as stack:
        s3 = stack.enter_context(S3Server(folder=work))
        s3.make_bucket(BUCKET)
        s3.put(BUCKET, f"{DATA}/")
        for some in batched(sorted(source.iterdir()), 8):
            s3.put_many(BUCKET, {f"{DATA}/{path.name}": path.read_bytes() for path in some})
        yield [stack.enter_context(peer(s3, source, work)) for peer in PEERS.values()]
