"""Credentials with a mark in them, in a whole cluster: the mark never comes out of any service, whatever it says."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.cli.children import get
from forebay.testing.cluster import Cluster
from forebay.testing.otlp import OtlpReceiver, otlp_receiver
from forebay.testing.s3 import ACCESS_KEY, SECRET_KEY, S3Server
from tests.integration.cli.kit import Ended, service
from tests.integration.cluster.kit import digests, digests_of, fill_bucket, s3_cluster
from tests.integration.cluster.plain import post

pytestmark = [pytest.mark.slow, pytest.mark.fuse, pytest.mark.s3]
CANARIES = {
    "AWS_ACCESS_KEY_ID": "AKIDCANARY0123456789",
    "AWS_SECRET_ACCESS_KEY": "CANARY/secret+0123456789",
    "AWS_SESSION_TOKEN": "CANARY/token==",
}
MARK = re.compile(r"CANARY|" + re.escape(SECRET_KEY))


def assert_clean(where: str, text: str) -> None:
    """No mark in a text, nor in what it holds in base64."""
    found = MARK.search(text)
    assert found is None, f"{where}: {text[max(0, found.start() - 100) : found.end() + 20]}"
    for word in re.findall(r"[A-Za-z0-9+/_-]{16,}", text):
        whole = word.replace("+", "-").replace("/", "_")
        inner = base64.urlsafe_b64decode(whole[: len(whole) // 4 * 4])
        assert MARK.search(inner.decode("latin-1")) is None, where


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """Where all spans go."""
    with otlp_receiver() as it:
        yield it


def everything(cluster: Cluster, receiver: OtlpReceiver) -> Iterator[tuple[str, str]]:
    """All that the cluster says, by who says it."""
    for name, child in cluster.local.children.items():
        yield f"log of {name}", child.log.read_text()
        for path in ("/v1/status", "/metrics", "/healthz", "/readyz", "/v1/mounts", "/v1/cluster", "/v1/nothing"):
            reply = get(child.spec.port, path)
            assert reply is not None
            yield f"{name}{path}", reply[1].decode()
        yield f"command of {name}", Path(f"/proc/{child.pid}/cmdline").read_text()
    port = cluster.local.children["master"].spec.port
    for path in ("/v1/lookup", "/v1/list", "/v1/tickets"):
        asked = {"path": "/", **({"client_id": "me"} if path == "/v1/tickets" else {})}
        yield path, post(port, path, json.dumps(asked)).body
    yield "spans", repr(receiver.spans())
    yield "points", repr(receiver.points())


def test_the_secret_that_opens_the_bucket_stays_inside(s3_server: S3Server, receiver: OtlpReceiver) -> None:
    objects = {f"file-{number}": bytes(100_000) for number in range(4)}
    bucket = fill_bucket(s3_server, objects)
    talkative = ("--log-level", "debug", "--otlp-endpoint", receiver.endpoint, "--trace-ratio", "1")
    extra = {name: talkative for name in ("master", "worker", "gateway")}
    with s3_cluster(s3_server, bucket, extra=extra, short_circuit=False) as cluster:
        # given reads that work, one of what is not there, and a mount of what may not be had
        assert digests(cluster.mount) == digests_of(objects)
        assert not (cluster.mount / "nothing").exists()
        port = cluster.local.children["master"].spec.port
        request = {"path": "/other", "ufs_uri": f"s3://{bucket}/none", "options": {"endpoint": s3_server.endpoint}}
        assert post(port, "/v1/mounts", json.dumps(request)).status in (403, 404)
        receiver.wait_for(lambda spans: {s.service for s in spans} >= {"forebay-worker", "forebay-fuse"})
        # then nothing that any of them says has the mark, and the ticket is really there
        said = dict(everything(cluster, receiver))
        assert '"ticket"' in said["/v1/tickets"]
        for where, text in said.items():
            assert_clean(where, text)
        # and the access key id, which is no secret, is in no log either
        for name in cluster.local.children:
            assert f'"{ACCESS_KEY}"' not in said[f"log of {name}"]


def test_credentials_that_are_refused_are_not_quoted(tmp_path: Path, s3_server: S3Server) -> None:
    bucket = fill_bucket(s3_server, {"file": b"x"})
    mount = f"/=s3://{bucket}/data,endpoint={s3_server.endpoint},region=us-east-1,path-style=true"
    roots = ("--ufs-roots", f"s3://{bucket}/data@{s3_server.endpoint}")
    flags = ("--port", "0", "--state-dir", tmp_path / "state", "--log-level", "debug", *roots, "--mount", mount)
    ended: Ended = service(tmp_path, "master", *flags, env={**s3_server.env, **CANARIES})
    assert ended.code == 2
    assert bucket in ended.last
    assert_clean("log", ended.said)
    for file in (tmp_path / "state").rglob("*"):
        assert_clean(str(file), file.read_bytes().decode("latin-1"))
