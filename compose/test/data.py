"""Puts files into the bucket of the test cluster and prints their checksums as ``sha256sum -c`` reads them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from pathlib import Path

from aiobotocore.session import get_session

SIZES = (1, 100_000, 1 << 20, (4 << 20) + 1, 9_000_001)


async def main(endpoint: str, bucket: str, credentials: Path, prefix: str) -> None:
    """Five files below ``prefix``, of random bytes."""
    os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(credentials)
    async with get_session().create_client("s3", endpoint_url=endpoint, region_name="us-east-1") as client:
        for number, size in enumerate(SIZES):
            body = os.urandom(size)
            async with asyncio.timeout(60):
                await client.put_object(Bucket=bucket, Key=f"{prefix}/part-{number}", Body=body)
            sys.stdout.write(f"{hashlib.sha256(body).hexdigest()}  {prefix}/part-{number}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
