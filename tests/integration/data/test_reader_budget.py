"""The SDK's readers in a control group: what they have ahead and what they lend stays within the budget."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing.cluster import Cluster
from tests.integration.data.kit import LIMIT, MIB, run_inside

pytestmark = [pytest.mark.slow]
READERS, FILE_BYTES = 6, 48 * MIB
"""More than the group's memory in all. Six readers would like 16 MiB each; an eighth of the memory is 32."""

CHILD = """
import contextlib, json, random, sys, threading, time
from pathlib import Path
from forebay.client import ClientOptions, SyncClient
from forebay.telemetry import quiet

MIB, PART, LENT = 1 << 20, 256 << 10, 4

def anonymous() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) << 10

def held() -> int:
    return int(next(i for i in metrics if i.description.name == "forebay_client_readahead_bytes").values()[()])

def read(number: int) -> None:
    body, buffer = memoryview(random.Random(number).randbytes(MIB)), bytearray(PART)
    with client.open(f"/f{number}") as reader, contextlib.ExitStack() as lent:
        for nth, at in enumerate(range(0, reader.size, PART)):
            if nth % (2 * LENT) < LENT:  # so many parts in turn are borrowed and kept, then as many are copied
                views = lent.enter_context(reader.lend(at, PART))
                kept[number].append((at, views))
            else:
                for begun, views in kept[number]:
                    right[number] += b"".join(views) == body[begun % MIB : begun % MIB + PART]
                kept[number].clear()
                lent.close()
                n = reader.read_into(at, memoryview(buffer))
                right[number] += buffer[:n] == body[at % MIB : at % MIB + PART]

def ended(within_s: float) -> bool:
    end_s = time.monotonic() + within_s
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end_s:
        most["held"], most["rss"] = max(most["held"], held()), max(most["rss"], anonymous())
        time.sleep(0.002)
    return not any(thread.is_alive() for thread in threads)

registry, readers = sys.argv[1], int(sys.argv[2])
telemetry = quiet()
metrics, right, kept = telemetry.metrics, [0] * readers, [[] for _ in range(readers)]
with SyncClient(ClientOptions(registry, "budget"), telemetry) as client:
    client.lookup("/f0")
    before, most = anonymous(), {"held": 0, "rss": 0}
    threads = [threading.Thread(target=read, args=(n,)) for n in range(readers)]
    for thread in threads:
        thread.start()
    has_ended, left = ended(90), held()
    end_s = time.monotonic() + 20
    while anonymous() - before > most["rss"] - before - most["held"] // 2 and time.monotonic() < end_s:
        time.sleep(0.1)
    print(json.dumps({"ended": has_ended, "right": right, "held": most["held"], "left": left,
                      "grown": most["rss"] - before, "after": anonymous() - before}))
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One worker, outside of the group, whose blocks nobody reads in place."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(READERS):
        (source / f"f{number}").write_bytes(random.Random(number).randbytes(MIB) * (FILE_BYTES // MIB))
    with Cluster.of_folder(source) as cluster:
        yield cluster


def test_readers_that_read_more_than_the_memory_and_keep_what_is_lent_stay_within_an_eighth_of_it(
    group: Path, cluster: Cluster
) -> None:
    said = run_inside(group, CHILD, cluster.registry, READERS)

    budget = LIMIT // 8
    assert said["ended"]
    assert said["right"] == [FILE_BYTES // (256 << 10)] * READERS
    assert READERS * FILE_BYTES > LIMIT
    assert budget // 2 < said["held"] <= budget  # several buffers, and not more than all may have together
    assert said["grown"] <= budget + READERS * 6 * MIB  # parts in hand, requests past the buffers, threads
    assert said["left"] == 0
    assert said["after"] <= said["grown"] - said["held"] // 2
