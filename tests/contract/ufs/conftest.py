"""The bucket of the contract suite, on both real S3 servers."""

from __future__ import annotations

import pytest

from forebay.testing.s3 import AwkwardS3, S3Server
from tests.contract.ufs.stores import BUCKET


@pytest.fixture(scope="session")
def contract_bucket(s3_server: S3Server) -> S3Server:
    s3_server.make_bucket(BUCKET)
    return s3_server


@pytest.fixture(scope="session")
def contract_bucket_awkward(awkward_s3: AwkwardS3) -> AwkwardS3:
    awkward_s3.admin.make_bucket(BUCKET)
    return awkward_s3
