"""Everything that an operator is promised on ``/metrics``, each with the value that what was done to a worker gives."""

from __future__ import annotations

from pathlib import Path

from forebay.contracts.blocks import READ_TYPE_HEADER
from forebay.testing import run
from forebay_worker.app import Worker
from tests.contract.worker.kit import MIB, Cluster, File, cluster, until
from tests.contract.worker.test_keeping import cached, homed, patch, sealed
from tests.unit.worker.kit import content, memory_dir


async def figures(made: Cluster, worker: Worker) -> dict[str, float]:
    """Samples of ``/metrics`` by their whole name."""
    text = (await made.get(worker, "/metrics")).body.decode()
    pairs = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def test_bytes_and_blocks_by_tier_and_mount_moves_and_evictions_are_on_metrics(tmp_path: Path) -> None:
    async def main() -> None:
        with memory_dir() as mem:
            (tmp_path / "disk").mkdir()
            (tmp_path / "disk" / "stranger").write_bytes(b"12345")
            async with cluster(tmp_path) as made:
                tiers = (f"MEM:{mem}:2MiB", f"SSD:{tmp_path}/disk:8MiB")
                worker = await made.add("w1", tier_dirs=tiers, policy="lru", scrub_rate=0)
                # given: three blocks, of which memory keeps one; one on the disk is promoted for one that goes there
                files = [await cached(made, worker, f"f{number}") for number in range(3)]
                await until(lambda: (worker.index.used(0), worker.index.used(1)) == (MIB, 2 * MIB))
                low = next(file for file in files if tier_of(worker, file) == 1)
                await made.get(worker, low.path(), {READ_TYPE_HEADER: "CACHE_PROMOTE"})
                await until(lambda: tier_of(worker, low) == 0)
                await until(lambda: (worker.index.used(0), worker.index.used(1)) == (MIB, 2 * MIB))
                seen = await figures(made, worker)
                # then
                held = [("mem", "0"), ("ssd", "1")]
                assert [seen[by_mount("blocks", *tier)] for tier in held] == [1, 2]
                assert [seen[by_mount("bytes", *tier)] for tier in held] == [MIB, 2 * MIB]
                assert [seen[by_tier("used_bytes", *tier)] for tier in held] == [MIB, 2 * MIB]
                assert [seen[by_tier("capacity_bytes", *tier)] for tier in held] == [2 * MIB, 8 * MIB]
                assert [seen[by_tier("in_service", *tier)] for tier in held] == [1, 1]
                assert seen["forebay_worker_promotions_total"] == 1
                assert seen["forebay_worker_demotions_total"] >= 1
                assert seen['forebay_worker_quarantine_files{number="1",tier="ssd"}'] == 1
                assert seen['forebay_worker_quarantine_bytes{number="1",tier="ssd"}'] == 5
                assert seen['forebay_worker_scrub_passes{number="1",tier="ssd"}'] == 0
                # when: scrubbed, and freed
                await patch(made, worker, scrub_rate="10GiB")
                await until(lambda: all(progress.passes for progress in worker.scrubber.progress))
                seen = await figures(made, worker)
                shares = [seen[f'forebay_worker_scrub_progress_ratio{{number="{n}",tier="{t}"}}'] for t, n in held]
                assert shares == [1, 1]
                scrubbed = [seen[f'forebay_worker_scrubbed_bytes_total{{tier="{tier}"}}'] for tier, _ in held]
                assert sum(scrubbed) == 3 * MIB
                assert all(sealed(worker, file) for file in files)

    run(main(), watchdog_s=60)


def tier_of(worker: Worker, file: File) -> int | None:
    block = worker.index.get(file.block_id())
    return None if block is None else block.tier


def by_tier(name: str, tier: str, number: str) -> str:
    return f'forebay_worker_tier_{name}{{number="{number}",tier="{tier}"}}'


def by_mount(name: str, tier: str, number: str) -> str:
    return f'forebay_worker_tier_{name}{{mount="m1",number="{number}",tier="{tier}"}}'


def test_reads_by_source_refusals_and_evictions_with_their_causes_are_on_metrics(tmp_path: Path) -> None:
    async def main() -> None:
        with memory_dir() as mem:
            async with cluster(tmp_path) as made:
                home = await made.add("a", tier_dirs=(f"MEM:{mem}:4MiB",), capacity_weight=1.0)
                entry = await made.add("b", tier_dirs=(f"SSD:{tmp_path}/b:2MiB",), capacity_weight=1.0)
                file = await homed(made, "a")
                # once past the home, twice from its memory, and twice from the copy of the entry worker
                await made.get(entry, file.path())
                await until(lambda: sealed(home, file))
                await made.get(home, file.path())
                await patch(made, entry, passive_cache=True, policy="lru")
                await made.get(entry, file.path())
                await until(lambda: sealed(entry, file))
                await made.get(entry, file.path())
                await made.get(entry, file.path())
                own = await homed(made, "b")
                await made.get(entry, own.path())
                seen, at_home = await figures(made, entry), await figures(made, home)
                assert (seen[reads("peer")], seen[reads("ssd")], seen[reads("ufs")]) == (2, 2, 1)
                assert at_home[reads("mem")] >= 1
                assert at_home[reads("ufs")] == 1
                # a block that is larger than the tier is refused, and what makes room is counted with its cause
                await until(lambda: len(entry.filler) == 0)
                large = File.write(made.mount, "large", content(3 * MIB))
                await made.get(entry, large.path(), {"forebay-hop": "1"})
                await until(lambda: entry.metrics.evictions.value("ssd", "lru", "room") >= 1)
                seen = await figures(made, entry)
                assert seen['forebay_worker_admissions_refused_total{reason="full"}'] >= 1
                assert seen['forebay_worker_evictions_total{cause="room",policy="lru",tier="ssd"}'] >= 1
                assert seen['forebay_worker_evicted_bytes_total{tier="ssd"}'] >= MIB

    run(main(), watchdog_s=60)


def reads(source: str) -> str:
    return f'forebay_worker_reads_total{{source="{source}"}}'
