"""fsspec's own abstract tests of reading, against a real cluster."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.tests.abstract import AbstractFixtures
from fsspec.tests.abstract.get import AbstractGetTests

from forebay.testing.cluster import Cluster
from tests.integration.fsspec.kit import FRESH, OverFolder, folder_cluster

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder below the cluster."""
    return tmp_path_factory.mktemp("conformance") / "source"


@pytest.fixture(scope="module")
def cluster(source: Path) -> Iterator[Cluster]:
    """See ``folder_cluster``."""
    with folder_cluster(source) as cluster:
        yield cluster


class ClusterFixtures(AbstractFixtures):
    """The file system under test, a directory of its own for each test."""

    @pytest.fixture
    def fs(self, cluster: Cluster, source: Path) -> Iterator[OverFolder]:
        """What is tested."""
        fs = OverFolder(cluster.registry, **FRESH)
        fs.source = source
        yield fs
        fs.close()

    @pytest.fixture
    def fs_path(self, fs: OverFolder) -> str:
        """A directory that only this test has."""
        path = f"/{secrets.token_hex(4)}"
        fs.mkdir(path)
        return path


class TestGet(ClusterFixtures, AbstractGetTests):
    """Copies to this machine: files, directories, patterns, lists."""
