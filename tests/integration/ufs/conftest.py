"""Buckets on the real S3 server for the integration tests of the adapter."""

from __future__ import annotations

import pytest

from forebay.testing.s3 import S3Server


@pytest.fixture(scope="session")
def lake(s3_server: S3Server) -> S3Server:
    """The server with the bucket ``lake`` and, readable by anyone, ``public``."""
    for bucket in ("lake", "public"):
        s3_server.make_bucket(bucket)
        s3_server.put(bucket, "set/a.bin", b"0123456789")
    return s3_server


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which the AWS chain finds nothing, and does not ask the network either."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
