"""Input buffers in a control group of their own: several readers stay within what follows from its memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forebay.data.tfrecord import frame
from tests.integration.data.kit import LIMIT, MIB, run_inside

pytestmark = [pytest.mark.slow]
READERS, SHARDS = 6, 12
"""Six readers would like eight pieces of 4 MiB each, 192 MiB; an eighth of the memory is 32."""

CHILD = """
import json, sys
from pathlib import Path
from forebay.data import FolderFiles, Part, ShardStream, StreamOptions
from forebay.data.pieces import BUDGET

def anonymous() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) << 10

folder = Path(sys.argv[1])
names = sorted(p.name for p in folder.iterdir())
readers = int(sys.argv[2])
before = anonymous()
streams = [iter(ShardStream(FolderFiles(folder), names, Part(worker=n, workers=readers), StreamOptions(window=1)))
           for n in range(readers)]
records, most_held, most_rss = 0, 0, 0
while streams:
    for stream in list(streams):
        if next(stream, None) is None:
            streams.remove(stream)
            continue
        records += 1
        most_held, most_rss = max(most_held, BUDGET.held_bytes), max(most_rss, anonymous())
print(json.dumps({"budget": BUDGET.most_bytes, "records": records, "held": most_held, "left": BUDGET.held_bytes,
                  "grown": most_rss - before, "after": anonymous() - before}))
"""


def test_several_readers_stay_within_an_eighth_of_the_memory_and_give_it_back(group: Path, tmp_path: Path) -> None:
    body = frame(os.urandom(MIB))
    for number in range(SHARDS):
        (tmp_path / f"part-{number:02}").write_bytes(body * 24)

    said = run_inside(group, CHILD, tmp_path, READERS)

    assert said["records"] == SHARDS * 24
    assert said["budget"] == LIMIT // 8
    assert 4 * MIB < said["held"] <= said["budget"] + READERS * 4 * MIB
    assert said["grown"] <= said["held"] + READERS * 6 * MIB  # records in hand, threads
    assert said["left"] == 0
    assert said["after"] < said["grown"] - said["held"] // 2
