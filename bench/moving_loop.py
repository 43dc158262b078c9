"""The other side of ``moving``: a bare loop of aiobotocore that brings a bucket's objects into a folder.

``python -m bench.moving_loop FOLDER BUCKET PREFIX ENDPOINT STREAMS PART_MIB``; prints the bytes it wrote. Streams take
parts of objects from one list, and write what comes where it belongs, at once: on tmpfs that waits for nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvloop
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

MIB = 1 << 20
READ_BYTES = 256 << 10


async def copy(folder: Path, bucket: str, prefix: str, endpoint: str, streams: int, part_bytes: int) -> int:
    """All objects below the prefix; their bytes."""
    config = AioConfig(max_pool_connections=streams, s3={"addressing_style": "path"})
    async with get_session().create_client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", config=config
    ) as client:
        found: list[tuple[str, int]] = []
        async for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            found += [(item["Key"], item["Size"]) for item in page.get("Contents", ())]
        parts = [(key, at, min(part_bytes, size - at)) for key, size in found for at in range(0, size, part_bytes)]
        parts.reverse()
        files: dict[str, int] = {}

        async def stream() -> None:
            while parts:
                key, at, length = parts.pop()
                if key not in files:
                    files[key] = os.open(folder / key.replace("/", "_"), os.O_WRONLY | os.O_CREAT)
                wanted = f"bytes={at}-{at + length - 1}"
                reply = await client.get_object(Bucket=bucket, Key=key, Range=wanted)
                async with reply["Body"] as body:
                    while piece := await body.read(READ_BYTES):
                        os.pwrite(files[key], piece, at)
                        at += len(piece)

        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(stream())
        for fd in files.values():
            os.close(fd)
    return sum(size for _, size in found)


if __name__ == "__main__":
    folder, bucket, prefix, endpoint, streams, part_mib = sys.argv[1:]
    print(uvloop.run(copy(Path(folder), bucket, prefix, endpoint, int(streams), int(part_mib) * MIB)))
