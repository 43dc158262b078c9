"""``forebay://`` in libraries that training jobs read with: webdataset and datasets."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pandas as pd
import pytest
import webdataset

from tests.integration.fsspec.kit import FRESH, folder_cluster

pytestmark = [pytest.mark.slow]
SAMPLES = 40


def picture(number: int) -> bytes:
    """What stands for one."""
    return random.Random(number).randbytes(5_000)


def write_shard(path: Path, numbers: range) -> None:
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for suffix, body in (("bin", picture(number)), ("cls", str(number).encode())):
                member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Storage options of a cluster that has two tar shards, a table in two parts, and lines of JSON."""
    source = tmp_path_factory.mktemp("libraries") / "source"
    source.mkdir()
    write_shard(source / "shard-0.tar", range(SAMPLES // 2))
    write_shard(source / "shard-1.tar", range(SAMPLES // 2, SAMPLES))
    table = pd.DataFrame({"number": range(SAMPLES), "text": [f"text {n}" for n in range(SAMPLES)]})
    table[: SAMPLES // 2].to_parquet(source / "part-0.parquet")
    table[SAMPLES // 2 :].to_parquet(source / "part-1.parquet")
    table.to_json(source / "lines.jsonl", orient="records", lines=True)
    with folder_cluster(source) as cluster:
        yield {"registry": cluster.registry, **FRESH}


def test_webdataset_reads_shards_by_url(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(url: str, mode: str = "rb", bufsize: int = 8192) -> Any:
        return fsspec.open(url, mode, **options).open()

    monkeypatch.setitem(webdataset.gopen_schemes, "forebay", opened)

    found = webdataset.WebDataset("forebay:///shard-{0..1}.tar", shardshuffle=False).to_tuple("__key__", "bin", "cls")

    assert [(key, body, int(cls)) for key, body, cls in found] == [(f"{n:04d}", picture(n), n) for n in range(SAMPLES)]


@pytest.mark.parametrize(("kind", "files"), [("parquet", "part-*.parquet"), ("json", "lines.jsonl")])
@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_loads_tables_by_url(
    options: dict[str, Any], tmp_path: Path, kind: str, files: str, streaming: bool
) -> None:
    found = datasets.load_dataset(
        kind,
        data_files=f"forebay:///{files}",
        split="train",
        streaming=streaming,
        storage_options=options,
        cache_dir=str(tmp_path),
    )

    assert [(row["number"], row["text"]) for row in found] == [(n, f"text {n}") for n in range(SAMPLES)]


def test_datasets_streams_tar_shards_as_samples(options: dict[str, Any], tmp_path: Path) -> None:
    found = datasets.load_dataset(
        "webdataset",
        data_files=["forebay:///shard-0.tar", "forebay:///shard-1.tar"],
        split="train",
        streaming=True,
        storage_options=options,
        cache_dir=str(tmp_path),
    )

    assert [row["__key__"] for row in found] == [f"{n:04d}" for n in range(SAMPLES)]
