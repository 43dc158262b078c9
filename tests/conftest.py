"""Fixtures for the whole suite: the real servers, started once, when the first test asks."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from forebay.testing.s3 import AwkwardS3, S3Server
from forebay.testing.zookeeper import ZooKeeperServer

# No deadline per example: the suite shares two cores with itself, and each test has a limit of its own.
settings.register_profile("forebay", deadline=None, print_blob=True)
settings.load_profile("forebay")


def pytest_sessionstart() -> None:
    """A shell's background job begins with SIGINT ignored, and so would every process that a test starts and then
    stops by it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real, faithful S3 server (SeaweedFS). Tests make buckets of their own."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def awkward_s3() -> Iterator[AwkwardS3]:
    """A real S3 server with bad habits (``rclone serve s3``)."""
    with AwkwardS3() as server:
        yield server


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[ZooKeeperServer]:
    """A real ZooKeeper. Tests that stop or pause it start their own."""
    with ZooKeeperServer() as server:
        yield server
