"""A file system whose changes are made in the folder below the cluster, as users make them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from forebay.fsspec import ForebayFileSystem
from forebay.testing.cluster import Cluster

FRESH: dict[str, Any] = {"metadata_cache_s": 0.0, "negative_cache_s": 0.0}
"""Names are asked of the master each time."""


def folder_cluster(source: Path) -> Cluster:
    """One worker over a folder whose names are never believed without a look."""
    source.mkdir(exist_ok=True)
    return Cluster.of_folder(source, extra={"master": ("--max-age-s", "0")})


class OverFolder(ForebayFileSystem):
    """The real file system for reading; what conformance tests write lands in ``source``."""

    cachable = False
    source: Path

    def below(self, path: str) -> Path:
        """Where a path of the namespace lies in the folder."""
        return self.source / str(self._strip_protocol(path)).lstrip("/")

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        self.below(path).mkdir(parents=create_parents)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self.below(path).mkdir(parents=True, exist_ok=exist_ok)

    def touch(self, *args: Any, **kwargs: Any) -> None:
        path = args[0]
        self.below(path).parent.mkdir(parents=True, exist_ok=True)
        self.below(path).write_bytes(b"")

    def pipe(self, path: str, value: bytes = b"", **kwargs: Any) -> None:
        self.below(path).parent.mkdir(parents=True, exist_ok=True)
        self.below(path).write_bytes(value)

    def rm(self, path: str, recursive: bool = False, **kwargs: Any) -> None:
        shutil.rmtree(self.below(path))
