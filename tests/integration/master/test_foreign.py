"""A master over sources that fsspec knows: its file system in memory, a web server, and a double of a cloud store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from forebay.testing import run
from tests.contract.master.kit import service, settings
from tests.contract.ufs.stores import SystemStore
from tests.contract.ufs.web import WebStore


class CloudDouble(MemoryFileSystem):
    """fsspec's file system in memory, in the place of a cloud's."""

    protocol = "gs"
    store: dict[str, Any] = {}  # noqa: RUF012  # shared by all instances, as in the class it is made from
    pseudo_dirs = [""]  # noqa: RUF012  # as above


@pytest.fixture(params=["memory", "http", "gs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SystemStore | WebStore]:
    if request.param == "http":
        (tmp_path / "web").mkdir()
        with WebStore(tmp_path / "web") as web:
            yield web
    else:
        if request.param == "gs":
            fsspec.register_implementation("gs", CloudDouble, clobber=True)
        yield SystemStore(request.param)


def test_a_source_of_fsspec_is_mounted_listed_and_seen_changing(tmp_path: Path, store: SystemStore | WebStore) -> None:
    async def main() -> None:
        store.put_many({"train/a": b"1", "train/b c": b"22", "top": b"333"})
        async with service(settings(tmp_path, [], [store.uri])) as s:
            asked = {"path": "/m", "ufs_uri": store.uri, "max_age_s": 0}
            assert (await s.send("POST", "/v1/mounts", asked)).status == 201
            assert [(e.name, e.kind, e.size) for e in await s.entries("/m")] == [
                ("top", "file", 3),
                ("train", "dir", 0),
            ]
            first = await s.entries("/m/train")
            assert [(e.name, e.size) for e in first] == [("a", 1), ("b c", 2)]
            assert (await s.lookup("/m/train/b c")).entry == first[1]
            store.put("train/a", b"other")
            again = (await s.lookup("/m/train/a")).entry
            assert again.size == 5
            assert again.layout is not None
            assert first[0].layout is not None
            assert again.layout.version_id != first[0].layout.version_id
            assert await s.refused("POST", "/v1/lookup", {"path": "/m/none"}) == (404, "not_found")
            beside = {"path": "/n", "ufs_uri": f"{store.uri}-2"}
            assert await s.refused("POST", "/v1/mounts", beside) in {
                (403, "permission_denied"),
                (400, "invalid_request"),
            }

    run(main())
