"""The data route of a worker over the real transport, with a folder as under store."""

from __future__ import annotations

from pathlib import Path

from forebay.testing import run
from tests.contract.worker.kit import MIB, File, cluster
from tests.unit.worker.kit import content


def test_a_block_is_served_cold_and_then_warm(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path) as c:
            worker = await c.add("w1")
            data = content(9 * MIB)
            file = File.write(c.mount, "train/a b.rec", data)
            cold = await c.get(worker, file.path())
            assert (cold.status, cold.body == data) == (200, True), cold.body[:200]
            assert cold.headers["forebay-source"] == "ufs"
            assert cold.headers["content-range"] == f"bytes 0-{9 * MIB - 1}/{9 * MIB}"
            warm = await c.get(worker, file.path(), {"range": "bytes=5-8999999"})
            assert (warm.status, warm.body == data[5:9_000_000]) == (206, True)
            assert warm.headers["forebay-source"] == "ssd"
            assert 0 < float(warm.headers["forebay-serving-weight"]) <= 1

    run(main())
