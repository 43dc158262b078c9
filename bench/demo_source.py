"""Where the demo's data come from: made here (in a folder, in S3), or the user's own, listed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.demo_data import SHARD_BYTES, SHARDS, SMALL_FILES, DataFile, dataset, make_images
from bench.demo_readers import Place
from forebay.cli.sources import SourceOptions
from forebay.cli.up import source_uri
from forebay.testing.s3 import REGION, S3Server
from forebay.ufs import UfsUri

BUCKET = "forebay-demo"
PREFIX = "imagenet-like"
UPLOADS_AT_ONCE = 4
LISTED_BYTES_MAX = 2 << 30
LISTED_FILES_MAX = 20_000


@dataclass(frozen=True)
class Sizes:
    """How much is made."""

    shards: int = SHARDS
    shard_bytes: int = SHARD_BYTES
    small_files: int = SMALL_FILES
    images: int = 300


SMALL_SIZES = Sizes(shards=2, shard_bytes=8 << 20, small_files=50, images=28)


@dataclass(frozen=True)
class Source:
    """What is mounted and read: its address, how it is reached without us, a copy on local disk if there is one."""

    uri: UfsUri
    options: SourceOptions
    place: Place
    files: tuple[DataFile, ...]
    local: Place | None = None
    cut: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)


def made_folder(folder: Path, sizes: Sizes | None = None) -> Source:
    """Write the dataset into ``folder``."""
    sizes = sizes or Sizes()
    with tempfile.TemporaryDirectory(prefix="forebay-demo-images-") as scratch:
        images = make_images(Path(scratch), sizes.images)
    files: list[DataFile] = []
    made = dataset(images, shards=sizes.shards, shard_bytes=sizes.shard_bytes, small_files=sizes.small_files)
    for file, body in made:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        files.append(file)
    place = Place("folder", str(folder))
    return Source(source_uri(str(folder)), SourceOptions(), place, tuple(files), local=place)


def made_s3(server: S3Server, made: Source) -> Source:
    """The same files as objects of our own S3 server (see ``uploaded``)."""
    place = Place("s3", f"{BUCKET}/{PREFIX}", server.endpoint, {**server.env, "AWS_DEFAULT_REGION": REGION})
    options = SourceOptions(endpoint=server.endpoint, region=REGION, path_style=True)
    return replace(made, uri=UfsUri.parse(f"s3://{BUCKET}/{PREFIX}"), options=options, place=place)


def uploaded(server: S3Server, source: Source, folder: Path) -> None:
    """Copy the files of ``folder`` into the server."""
    server.make_bucket(BUCKET)
    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
        jobs = [
            pool.submit(lambda f: server.put(BUCKET, f"{PREFIX}/{f.path}", (folder / f.path).read_bytes()), file)
            for file in source.files
        ]
        for job in jobs:
            job.result()


def listed_source(text: str, environ: Mapping[str, str]) -> Source:
    """The user's own data, at most ``LISTED_BYTES_MAX`` of it (``cut`` says so).

    Raises:
        ConfigError: no such folder. ValueError: nothing in it, or a bucket that may not be listed.
    """
    uri = source_uri(text)
    if uri.scheme == "file":
        place, found, options = Place("folder", f"/{uri.prefix}"), _walk(Path(f"/{uri.prefix}")), SourceOptions()
    else:
        endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or None
        region = environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION") or None
        options = SourceOptions(endpoint, region, path_style=endpoint is not None)
        place = Place("s3", f"{uri.root}/{uri.prefix}".rstrip("/"), endpoint)
        found = _objects(uri, endpoint)
    files = _within(found)
    if not files:
        raise ValueError(f"{text} has no files to read")
    return Source(uri, options, place, files, cut=len(files) < len(found))


def _walk(folder: Path) -> list[DataFile]:
    paths = [Path(top) / name for top, _, names in os.walk(folder) for name in names]
    return [DataFile(str(p.relative_to(folder)), p.stat().st_size) for p in sorted(paths) if p.is_file()]


def _objects(uri: UfsUri, endpoint: str | None) -> list[DataFile]:
    import botocore.session
    from botocore.exceptions import BotoCoreError, ClientError

    client: Any = botocore.session.Session().create_client("s3", endpoint_url=endpoint)
    prefix = f"{uri.prefix}/" if uri.prefix else ""
    found: list[DataFile] = []
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=uri.root, Prefix=prefix):
            found += [DataFile(o["Key"][len(prefix) :], o["Size"]) for o in page.get("Contents", ())]
            if len(found) > LISTED_FILES_MAX:
                break
    except (BotoCoreError, ClientError) as e:
        raise ValueError(f"{uri} cannot be listed: {e}") from e
    return [f for f in found if f.path and not f.path.endswith("/")]


def _within(found: list[DataFile]) -> tuple[DataFile, ...]:
    kept, total = [], 0
    for file in found[:LISTED_FILES_MAX]:
        if total + file.size <= LISTED_BYTES_MAX:
            kept.append(file)
            total += file.size
    return tuple(kept)
