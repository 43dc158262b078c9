"""The README's lines of Python, run word for word but for addresses, sizes and what a reader has of his own."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pandas
import pytest
import torch

from forebay.data.tfrecord import frame
from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README[README.index("## Read from Python without a mount\n") : README.index("## What to expect\n")]
BLOCKS = re.findall(r"^```python\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
PARTS, RECORDS = (0, 1, 2, 7), 64
ALL = len(PARTS) * RECORDS


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A mount of what the lines name."""
    source = tmp_path_factory.mktemp("readme") / "source"
    (source / "train").mkdir(parents=True)
    (source / "tables").mkdir()
    for shard, part in enumerate(PARTS):
        records = [frame(struct.pack("<f", shard * RECORDS + n) * 5000) for n in range(RECORDS)]
        (source / "train" / f"part-{part}").write_bytes(b"".join(records))
    pandas.DataFrame({"label": [1, 2]}).to_parquet(source / "tables" / "labels.parquet")
    with Cluster.of_folder(source, mounts=1) as cluster:
        yield cluster


def run(block: str, cluster: Cluster, stands_for: dict[str, str], names: dict[str, Any]) -> dict[str, Any]:
    """The names after a block of lines."""
    for text, value in {"http://127.0.0.1:7070": cluster.registry, "/mnt/imagenet": str(cluster.mount)}.items():
        block = block.replace(text, value)
    for text, value in stands_for.items():
        assert text in block
        block = block.replace(text, value)
    exec(compile(block, "README.md", "exec"), names)
    return names


def test_there_are_four_blocks_of_lines() -> None:
    assert len(BLOCKS) == 4


def test_files_are_listed_and_read_without_a_mount(cluster: Cluster) -> None:
    names = run(BLOCKS[0], cluster, {}, {})

    assert names["entry"].name == "part-7"
    assert names["head"] == frame(struct.pack("<f", ALL - RECORDS) * 5000)[:1024]


def test_a_table_is_read_by_its_url(cluster: Cluster) -> None:
    last = BLOCKS[1].replace("pandas.read_parquet", "found = pandas.read_parquet")

    assert list(run(last, cluster, {}, {})["found"]["label"]) == [1, 2]


def test_a_training_is_fed_and_reported_on(cluster: Cluster, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    names: dict[str, Any] = {
        "decode": lambda record: torch.frombuffer(bytearray(record), dtype=torch.float32),
        "train": seen.append,
    }
    steps, drawn = tmp_path / "steps", tmp_path / "steps.svg"

    run(BLOCKS[2], cluster, {"batch_size=256": "batch_size=16", "num_workers=8": "num_workers=2"}, names)
    run(BLOCKS[3], cluster, {"/tmp/steps": str(steps), "range(90)": "range(2)", "images=256": "images=16"}, names)
    command = re.search(r"`forebay (report /tmp/steps --picture steps\.svg)`", SECTION)
    assert command is not None
    line = command[1].replace("/tmp/steps", str(steps)).replace("steps.svg", str(drawn)).split()
    said = subprocess.run([sys.executable, "-m", "forebay.cli", *line], check=True, stdout=subprocess.PIPE).stdout
    told = orjson.loads(
        subprocess.run(
            [sys.executable, "-m", "forebay.cli", "report", str(steps), "--json"], check=True, stdout=subprocess.PIPE
        ).stdout
    )

    epochs = [seen[: len(seen) // 2], seen[len(seen) // 2 :]]
    for number, batches in enumerate(epochs):
        assert sorted(int(row[0]) for batch in batches for row in batch) == list(range(ALL))
        assert f"epoch {number}: {ALL} images in" in said.decode()
    assert [(e["epoch"], e["images"]) for e in told["epochs"]] == [(0, ALL), (1, ALL)]
    assert all(e["explained"] > 0.5 for e in told["epochs"])  # of some 0.1 s, most of them the start of loaders
    assert ElementTree.parse(drawn).getroot().tag.endswith("svg")


def test_an_order_is_told_by_a_call_and_by_cat(cluster: Cluster, tmp_path: Path) -> None:
    call = re.search(r"`(client\.hint\(.*?\))`", SECTION)
    line = re.search(r"`(cat order\.txt > /mnt/imagenet/\.forebay/hints)`", SECTION)
    assert call is not None
    assert line is not None
    (tmp_path / "order.txt").write_text("train/part-2\ntrain/part-1\n")

    before = cluster.metrics("worker-0")["forebay_worker_hint_streams"]
    connected, _, _ = BLOCKS[0].partition("    for entry")
    named = run(f"{connected}    named = {call[1]}\n", cluster, {}, {})["named"]
    shell = line[1].replace("/mnt/imagenet", str(cluster.mount))
    subprocess.run(["bash", "-c", shell], cwd=tmp_path, check=True)

    assert named == 2
    assert (cluster.mount / ".forebay" / "hints").read_text().startswith("2 blocks of 2 files")
    eventually(lambda: cluster.metrics("worker-0")["forebay_worker_hint_streams"] >= before + 2)
