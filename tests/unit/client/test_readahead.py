"""Readahead: full on sequences, nothing on random access, never beyond the file."""

from forebay.client.ranges import Grid
from forebay.client.readahead import Cursor, advance

MIB = 1 << 20
GRID = Grid(size=64 * MIB, block_size=32 * MIB, segment=4 * MIB)
WINDOW = 16 * MIB


def after(*reads: tuple[int, int], grid: Grid = GRID, window: int = WINDOW) -> Cursor:
    cursor = Cursor()
    for offset, length in reads:
        cursor = advance(cursor, offset, length, grid=grid, window_bytes=window)
    return cursor


def test_the_first_read_at_the_beginning_wants_its_own_segment() -> None:
    assert after((0, MIB)).wanted == range(1)


def test_the_second_read_in_sequence_opens_the_full_window() -> None:
    assert after((0, MIB), (MIB, MIB)).wanted == range(5)


def test_segments_a_slack_behind_are_let_go() -> None:
    reads = [(i * MIB, MIB) for i in range(21)]
    assert after(*reads).wanted == range(4, 10)


def test_reads_that_arrive_out_of_order_stay_a_sequence() -> None:
    assert after((0, MIB), (2 * MIB, MIB), (MIB, MIB), (3 * MIB, MIB)).wanted == range(5)


def test_reading_the_same_place_again_is_no_progress() -> None:
    assert after((0, MIB), (0, MIB), (0, MIB)).wanted == range(1)


def test_a_random_jump_wants_nothing() -> None:
    assert after((0, MIB), (MIB, MIB), (40 * MIB, MIB)).wanted == range(0)
    assert after((40 * MIB, MIB)).wanted == range(0)


def test_a_sequence_is_found_again_after_a_jump() -> None:
    cursor = after((40 * MIB, MIB), (41 * MIB, MIB), (42 * MIB, MIB))
    assert cursor.wanted.stop == GRID.number(59 * MIB - 1) + 1


def test_the_window_ends_at_the_files_end() -> None:
    reads = [(i * MIB, MIB) for i in range(64)]
    assert after(*reads).wanted.stop == GRID.count


def test_a_read_as_large_as_the_window_needs_no_readahead() -> None:
    assert after((0, WINDOW), (WINDOW, WINDOW)).wanted == range(0)


def test_a_small_file_read_at_once_needs_no_readahead() -> None:
    grid = Grid(size=100_000, block_size=32 * MIB, segment=4 * MIB)
    assert after((0, 100_000), grid=grid).wanted == range(0)


def test_a_window_of_zero_turns_readahead_off() -> None:
    assert after((0, MIB), (MIB, MIB), window=0).wanted == range(0)
