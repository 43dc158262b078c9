"""Real S3 servers for tests: SeaweedFS (faithful) and ``rclone serve s3`` (awkward), with helpers to fill them.

The helpers use botocore's own blocking client, so that the adapter under test is not tested by itself.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import botocore.session
from botocore.config import Config
from botocore.handlers import add_expect_header

from forebay.testing.tools import Process, free_ports, temporary_folder, tool
from forebay.ufs import Credentials

READY_TIMEOUT_S = 60.0
GRPC_OFFSET = 10_000
UPLOADS_AT_ONCE = 8
ADMIN_TIMEOUT_S = 20
REGION = "us-east-1"
ACCESS_KEY = "forebay-test"
SECRET_KEY = "CANARY-secret-of-the-test-server"
"""Greppable on purpose: tests look for it where it must not be."""
READER = Credentials("forebay-reader", "CANARY-secret-of-the-reader")
"""May read objects and list nothing."""


class S3Server:
    """SeaweedFS on loopback: ``with S3Server() as s3: s3.make_bucket("b"); s3.put("b", "k", b"...")``.

    ``folder`` keeps its data elsewhere (tmpfs for benches).
    """

    def __init__(self, *, folder: Path | None = None) -> None:
        self._ports = free_ports(4, also_above=GRPC_OFFSET)
        self._folder = temporary_folder("s3", inside=folder)
        self._process: Process | None = None
        self._admin: S3Admin | None = None

    @property
    def endpoint(self) -> str:
        """``http://host:port``; the same after a restart."""
        return f"http://127.0.0.1:{self._ports[3]}"

    @property
    def env(self) -> dict[str, str]:
        """The environment that lets the standard AWS chain in."""
        return credentials_env()

    @property
    def admin(self) -> S3Admin:
        """Buckets and objects, by a client of its own."""
        if self._admin is None:
            self._admin = S3Admin(self.endpoint)
        return self._admin

    def start(self) -> None:
        """Starts it and waits until it serves."""
        folder = Path(self._folder.name)
        (folder / "data").mkdir(exist_ok=True)
        (folder / "s3.json").write_text(json.dumps(_IDENTITIES))
        self._process = Process(_weed_command(folder, self._ports), folder=folder, orphaned=signal.SIGKILL)
        self._process.wait_ready(self.is_serving, READY_TIMEOUT_S)

    def is_serving(self) -> bool:
        """Whether the S3 port answers its health check and the volumes are there (after a restart they come later)."""
        try:
            with urlopen(f"{self.endpoint}/healthz", timeout=1):
                pass
            with urlopen(f"http://127.0.0.1:{self._ports[0]}/dir/status", timeout=1) as reply:
                return bool(json.load(reply)["Topology"]["Max"])
        except (URLError, OSError, ValueError, KeyError):
            return False

    def stop(self) -> None:
        """Kills it (which loses nothing; a polite stop takes over ten seconds); data stay for a later ``start``."""
        if self._process is not None:
            self._process.stop(kill=True)
            self._process = None
        for port in [*self._ports, *(port + GRPC_OFFSET for port in self._ports)]:
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # where the server always puts them
                socket.unlink(missing_ok=True)

    def close(self) -> None:
        """Kills it and removes its data."""
        self.stop()
        if self._admin is not None:
            self._admin.close()
        self._folder.cleanup()

    def make_bucket(self, bucket: str) -> None:
        """See ``S3Admin``."""
        self.admin.make_bucket(bucket)

    def put(self, bucket: str, key: str, body: bytes = b"") -> str:
        """See ``S3Admin``."""
        return self.admin.put(bucket, key, body)

    def put_many(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """See ``S3Admin``."""
        self.admin.put_many(bucket, objects)

    def delete(self, bucket: str, key: str) -> None:
        """See ``S3Admin``."""
        self.admin.delete(bucket, key)

    def __enter__(self) -> S3Server:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AwkwardS3:
    """``rclone serve s3`` over a folder of plain files: ranged GETs answered 200, If-Match ignored, bare ETags.

    A bucket is a folder below ``root``; objects may be changed there behind the server's back.
    """

    def __init__(self) -> None:
        self._port = free_ports(1)[0]
        self._folder = temporary_folder("awkward-s3")
        self._process: Process | None = None
        self.root = Path(self._folder.name) / "buckets"
        self.admin = S3Admin(self.endpoint)

    @property
    def endpoint(self) -> str:
        """``http://host:port``."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts it and waits until it serves."""
        self.root.mkdir(exist_ok=True)
        address = ["--addr", f"127.0.0.1:{self._port}", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
        fresh = ["--dir-cache-time", "0s", "--config", "/dev/null"]
        command: list[str | Path] = [tool("rclone"), "serve", "s3", *address, *fresh, self.root]
        self._process = Process(command, folder=Path(self._folder.name))
        self._process.wait_ready(self.is_serving, READY_TIMEOUT_S)

    def is_serving(self) -> bool:
        """Whether it answers at all (403 without credentials is an answer)."""
        try:
            with urlopen(self.endpoint, timeout=1):
                return True
        except URLError as e:
            return hasattr(e, "code")
        except OSError:
            return False

    def close(self) -> None:
        """Kills it and removes its files."""
        if self._process is not None:
            self._process.stop(kill=True)
            self._process = None
        self.admin.close()
        self._folder.cleanup()

    def __enter__(self) -> AwkwardS3:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class S3Admin:
    """Blocking helpers with the test credentials: buckets, objects."""

    def __init__(self, endpoint: str) -> None:
        when = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        patience = {"read_timeout": ADMIN_TIMEOUT_S, "retries": {"total_max_attempts": 2}}
        config = Config(s3={"addressing_style": "path"}, max_pool_connections=UPLOADS_AT_ONCE, **when, **patience)
        self._client: Any = botocore.session.Session().create_client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=config,
        )
        # A refused PUT that waits for `100 Continue` would hang; there is nothing to save by asking first here.
        self._client.meta.events.unregister("before-call.s3", add_expect_header)

    def make_bucket(self, bucket: str) -> None:
        """Creates it."""
        self._client.create_bucket(Bucket=bucket)

    def remove_bucket(self, bucket: str) -> None:
        """Removes an empty one."""
        self._client.delete_bucket(Bucket=bucket)

    def put(self, bucket: str, key: str, body: bytes = b"") -> str:
        """Writes one object; its ETag without quotes."""
        return str(self._client.put_object(Bucket=bucket, Key=key, Body=body)["ETag"]).strip('"')

    def put_many(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Writes many, several at once."""
        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
            for _ in pool.map(lambda item: self.put(bucket, *item), objects.items()):
                pass

    def count(self, bucket: str) -> int:
        """How many objects a plain paginated listing finds."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sum(len(page.get("Contents", ())) for page in pages)

    def keys(self, bucket: str) -> list[str]:
        """All keys that a plain paginated listing finds."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def get(self, bucket: str, key: str) -> bytes:
        """Reads one whole object."""
        return bytes(self._client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def get_range(self, bucket: str, key: str, offset: int, length: int) -> bytes:
        """Reads a part of one, of at least one byte."""
        part = f"bytes={offset}-{offset + length - 1}"
        return bytes(self._client.get_object(Bucket=bucket, Key=key, Range=part)["Body"].read())

    def delete(self, bucket: str, key: str) -> None:
        """Removes one object."""
        self._client.delete_object(Bucket=bucket, Key=key)

    def close(self) -> None:
        """Closes its connections."""
        self._client.close()


def credentials_env() -> dict[str, str]:
    """The test credentials as the standard AWS chain finds them; nothing else of the caller's AWS setup gets in."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


_IDENTITIES = {
    "identities": [
        {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER.access_key, "secretKey": READER.secret_key}],
            "actions": ["Read"],
        },
        {"name": "anonymous", "actions": ["Read:public", "List:public"]},
    ]
}


def _weed_command(folder: Path, ports: list[int]) -> list[str | Path]:
    master, volume, filer, s3 = ports
    local = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}"]
    gateway = ["-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    # Without it a restarted master waits ten seconds and more for votes that nobody else has.
    quick = ["-master.electionTimeout=1s", "-master.heartbeatInterval=200ms"]
    # Each bucket takes seven volumes (sparse files); 0 would mean as many as gigabytes are free on the disk.
    sizes = ["-master.volumeSizeLimitMB=1024", "-volume.max=2000", "-master.telemetry=false"]
    config = f"-s3.config={folder / 's3.json'}"
    return [
        tool("weed"),
        "-logtostderr=true",
        "server",
        f"-dir={folder / 'data'}",
        *local,
        *gateway,
        config,
        *quick,
        *sizes,
    ]
