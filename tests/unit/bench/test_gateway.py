"""The parts of the gateway bench that decide something: whose processes are counted, what fio is told, the opener."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import measures
from bench.figures import Options
from bench.gateway_readers import Fio, opener
from bench.gateway_side import Row, family
from bench.gateway_warm import MMAP, RAND8, SEQ1, SEQ4, shortened

FILES = [Path(f"/files/{n}") for n in range(4)]
SIZES = [10, 20, 30, 40]


def test_a_gateway_is_its_session_and_all_descendants_and_nobody_else() -> None:
    # given a gateway (10), a keeper in its session, a helper that left the session, the helper's child, and strangers
    rows = [Row(10, 1, 10), Row(11, 1, 10), Row(12, 10, 12), Row(13, 12, 12), Row(1, 0, 1), Row(20, 1, 20)]
    # then
    assert family(10, rows) == [10, 11, 12, 13]


def test_sequential_jobs_share_the_files_out() -> None:
    command, expected = SEQ4.command(FILES, SIZES)
    assert [part for part in command if part.startswith("--filename")] == [f"--filename=/files/{n}" for n in range(4)]
    assert expected == 4 * sum(SIZES)
    assert SEQ1.command(FILES, SIZES)[1] == 2 * sum(SIZES)


def test_random_jobs_read_all_files_each_with_a_seed_of_its_own() -> None:
    command, expected = RAND8.command(FILES, SIZES)
    assert len([part for part in command if part == "--filename=/files/0:/files/1:/files/2:/files/3"]) == 8
    assert len({part for part in command if part.startswith("--randseed")}) == 8
    assert RAND8.io_bytes is not None
    assert expected == 8 * RAND8.io_bytes


def test_a_short_run_reads_once() -> None:
    assert shortened(SEQ4, Options(quick=True)) == Fio(SEQ4.flags, jobs=4)
    assert shortened(MMAP, Options()) is MMAP


@pytest.mark.parametrize("processes", [1, 3])
def test_the_opener_reads_every_file_once(tmp_path: Path, processes: int) -> None:
    names = [f"name {n}" for n in range(7)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(number * 100_000))
    total = sum(n * 100_000 for n in range(7))
    assert opener("read", tmp_path, names, processes=processes, expected=total).rate > 0
    assert opener("stat", tmp_path, names, processes=processes, expected=7).seconds > 0
    assert opener("list", tmp_path, (), processes=1, expected=7).longest_s == 0.0
    with pytest.raises(RuntimeError, match=str(total)):
        opener("read", tmp_path, names, processes=processes, expected=total + 1)


def test_a_missing_file_is_an_error_and_never_a_hang(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="none"):
        opener("read", tmp_path, ["none"], processes=2, expected=0)


def test_every_figure_of_the_gateway_is_there() -> None:
    assert len(list(measures("gateway"))) >= 16
    assert len(list(measures("gateway.mmap_warm_vs_native"))) == 1
