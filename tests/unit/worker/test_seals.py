"""The log of small blocks while the worker runs: it stays short, and says the same as before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.testing import run
from forebay_worker import ondisk
from forebay_worker.ondisk import RECORD_BYTES, SEALS_HEAD_BYTES, Seals, decode_seals
from forebay_worker.seals import GARBAGE_MIN, SealsLog, read_log, syncfs
from tests.unit.worker.kit import MIB, asked_for, content, kit, memory_dir
from tests.unit.worker.test_store import settled

LONG = "a name that takes more than one record of forty bytes, as names may"


@pytest.fixture
def mem() -> Iterator[Path]:
    with memory_dir() as path:
        yield path


def block(number: int) -> str:
    return f"{number:032x}"


def said(seals: Seals) -> dict[str, tuple[int, tuple[int, ...], str]]:
    """What a log says of each block, but for where it says it."""
    return {raw.hex(): (sealed.length, sealed.crcs, sealed.dataset) for raw, sealed in seals.blocks.items()}


def a_log() -> bytes:
    """Names in several records, a block sealed twice, marks in between."""
    parts = [ondisk.seals_head(), ondisk.encode_name(1, "m1"), ondisk.encode_name(7, LONG)]

    def seal(number: int, dataset: int, length: int = 5 * MIB) -> None:
        parts.append(ondisk.encode_seal(block(number), length, (number, number + 1), dataset, 1000 + number))

    def mark() -> None:
        parts.append(ondisk.encode_synced(sum(map(len, parts))))

    seal(1, 1)
    seal(2, 7)
    mark()
    seal(3, 0)
    parts.append(ondisk.encode_name(2, "m2"))
    seal(1, 2, 6 * MIB)
    mark()
    seal(4, 7)
    parts.append(ondisk.encode_synced(SEALS_HEAD_BYTES + 3 * RECORD_BYTES))
    seal(5, 1)
    return b"".join(parts)


def test_wherever_a_log_is_cut_for_shortening_it_says_the_same_of_all_that_live() -> None:
    whole = a_log()
    full = decode_seals(whole)
    assert full is not None
    wanted = said(full)
    inside_the_long_name = SEALS_HEAD_BYTES + 2 * RECORD_BYTES  # never a cut: a name is appended as one
    for until in {*range(SEALS_HEAD_BYTES, len(whole) + 1, RECORD_BYTES)} - {inside_the_long_name}:
        for dead in (None, *wanted):
            head = decode_seals(whole[:until])
            assert head is not None
            live = {bytes.fromhex(name) for name in wanted if name != dead}
            data, numbers = ondisk.shortened(head, live)
            tail = ondisk.carried(whole[until:], start=until, at=len(data), names=head.datasets, numbers=numbers)
            found = decode_seals(data + tail)
            assert found is not None
            assert found.end == len(data) + len(tail)
            stays = {name: fact for name, fact in wanted.items() if name != dead or name in said_behind(whole, until)}
            assert said(found) == stays
            assert durable(found) <= durable(full)


def said_behind(whole: bytes, until: int) -> set[str]:
    """Blocks that the log speaks of behind a place."""
    found = decode_seals(ondisk.seals_head() + whole[until:])
    assert found is not None
    return set(said(found))


def durable(seals: Seals) -> set[bytes]:
    return {raw for raw, sealed in seals.blocks.items() if sealed.is_durable}


def test_what_was_on_the_disk_is_still_known_to_be_after_the_log_was_shortened() -> None:
    full = decode_seals(a_log())
    assert full is not None
    data, _ = ondisk.shortened(full, set(full.blocks))
    found = decode_seals(data)
    assert found is not None
    assert durable(found) == durable(full) == {bytes.fromhex(block(n)) for n in (1, 2, 3)}


def test_what_is_appended_while_the_log_is_written_anew_is_in_it(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(name)
        if name == "log.rewritten":
            log.append(block(100), MIB, (100,), "m9")
            log.append(block(2), MIB, (22,), "m1")

    log = SealsLog(root, Seals(), steps=step, sync=syncfs, fsync=os.fsync, extent_size=4 * MIB)
    try:
        for number in range(50):
            log.append(block(number), MIB, (number,), "m1")
        log.rewrite({bytes.fromhex(block(n)) for n in (1, 2)}, log.end)
        log.append(block(101), MIB, (101,), "m9")
        assert steps == ["log.rewritten", "log.replaced"]
        found = read_log(root, 4 * MIB)
        assert found is not None
        assert said(found) == {
            block(1): (MIB, (1,), "m1"),
            block(2): (MIB, (22,), "m1"),
            block(100): (MIB, (100,), "m9"),
            block(101): (MIB, (101,), "m9"),
        }
        log.sync()
        synced = read_log(root, 4 * MIB)
        assert synced is not None
        assert len(durable(synced)) == 4
    finally:
        log.close()
        os.close(root)


def test_a_log_that_was_closed_takes_nothing_more(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    log = SealsLog(root, Seals(), steps=lambda name: None, sync=syncfs, fsync=os.fsync, extent_size=4 * MIB)
    log.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.append(block(1), MIB, (1,), "m1")
    os.close(root)


def test_numbers_of_mounts_are_used_again_when_all_were_given_out() -> None:
    assert ondisk.free_number({}) == 1
    assert ondisk.free_number({"a": 3}) == 4
    assert ondisk.free_number({"a": 1, "b": 65_535}) == 2


def test_the_log_of_a_running_worker_stays_short_and_a_restart_finds_all(mem: Path) -> None:
    async def main() -> None:
        async with kit(("MEM", mem, 64 * MIB)) as parts:
            asked = [asked_for(parts.ufs.put(str(n), content(100_000, n))) for n in range(3)]
            for one in asked:
                await parts.read(one)
            await settled(parts)
            log = parts.store.tiers[0].log
            assert log is not None
            # given: many small blocks came and went
            for number in range(GARBAGE_MIN + 10):
                log.append(block(number), MIB, (number,), "m1")
            await parts.store.shorten_logs()
            assert (mem / "seals").stat().st_size < 10 * RECORD_BYTES
            # and nothing is done while most of the log is of use
            before = (mem / "seals").stat().st_ino
            await parts.store.shorten_logs()
            assert (mem / "seals").stat().st_ino == before
        async with kit(("MEM", mem, 64 * MIB), ufs=parts.ufs) as parts:
            assert parts.sealed() == 3
            calls = len(parts.ufs.calls)
            for number, one in enumerate(asked):
                assert await parts.read(one) == content(100_000, number)
            assert len(parts.ufs.calls) == calls

    run(main())
