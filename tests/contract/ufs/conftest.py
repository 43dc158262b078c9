"""The bucket of the contract suite, on both real S3 servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.s3 import AwkwardS3, S3Server
from tests.contract.ufs.stores import BUCKET
from tests.contract.ufs.web import WebStore


@pytest.fixture(scope="session")
def contract_bucket(s3_server: S3Server) -> S3Server:
    s3_server.make_bucket(BUCKET)
    return s3_server


@pytest.fixture(scope="session")
def contract_bucket_awkward(awkward_s3: AwkwardS3) -> AwkwardS3:
    awkward_s3.admin.make_bucket(BUCKET)
    return awkward_s3


@pytest.fixture
def web_store(tmp_path: Path) -> Iterator[WebStore]:
    with WebStore(tmp_path) as store:
        yield store
