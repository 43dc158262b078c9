"""Input buffers in a control group of their own: several readers stay within what follows from its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.data.tfrecord import frame
from forebay.runtime.cgroup import parse_groups, parse_mounts

pytestmark = [pytest.mark.slow]
MIB = 1 << 20
LIMIT, READERS, SHARDS = 256 * MIB, 6, 12
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


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with so much memory, below our own."""
    name = f"forebay-test-{os.getpid()}"
    groups = parse_groups(Path("/proc/self/cgroup").read_text())
    for mount in parse_mounts(Path("/proc/self/mountinfo").read_text()):
        own = groups.get("memory" if mount.version == 1 else "", "/")
        folder = Path(mount.mount_point) / os.path.relpath(own, mount.root) / name
        limit = folder / ("memory.limit_in_bytes" if mount.version == 1 else "memory.max")
        if mount.version == 1 and "memory" not in mount.controllers:
            continue
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            limit.write_text(str(LIMIT))
        except OSError:  # without the controller
            folder.rmdir()
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no control group can be made here: it takes root and a writable hierarchy with memory")


def test_several_readers_stay_within_an_eighth_of_the_memory_and_give_it_back(group: Path, tmp_path: Path) -> None:
    body = frame(os.urandom(MIB))
    for number in range(SHARDS):
        (tmp_path / f"part-{number:02}").write_bytes(body * 24)
    enter = f'echo $$ > {group}/cgroup.procs && exec {sys.executable} -c "$0" "$@"'

    done = subprocess.run(
        ["sh", "-c", enter, CHILD, str(tmp_path), str(READERS)], stdout=subprocess.PIPE, check=True, timeout=120
    )
    said = json.loads(done.stdout)

    assert said["records"] == SHARDS * 24
    assert said["budget"] == LIMIT // 8
    assert 4 * MIB < said["held"] <= said["budget"] + READERS * 4 * MIB
    assert said["grown"] <= said["held"] + READERS * 6 * MIB  # records in hand, threads
    assert said["left"] == 0
    assert said["after"] < said["grown"] - said["held"] // 2
