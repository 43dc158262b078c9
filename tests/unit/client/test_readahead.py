"""Readahead: full on sequences, nothing on random access, never beyond the file."""

from forebay.client.ranges import Grid
from forebay.client.readahead import Cursor, advance, budget_bytes
from forebay.client.segments import SegmentTable
from forebay.client.tasks import Tasks

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


def test_the_second_read_in_sequence_opens_a_window_of_two_segments() -> None:
    cursor = after((0, MIB), (MIB, MIB))
    assert (cursor.window, cursor.wanted) == (8 * MIB, range(3))


def test_the_window_doubles_when_half_of_it_was_read_until_it_is_full() -> None:
    windows = [after(*((i * MIB, MIB) for i in range(n))).window // MIB for n in range(1, 30)]
    assert windows[:8] == [0, 8, 8, 8, 8, 16, 16, 16]
    assert set(windows[8:]) == {16}
    wider = [after(*((i * MIB, MIB) for i in range(n)), window=40 * MIB).window // MIB for n in range(1, 40)]
    assert wider == sorted(wider)
    assert set(wider) == {0, 8, 16, 32, 40}


def test_a_window_that_may_be_smaller_now_is_at_once() -> None:
    cursor = after(*((i * MIB, MIB) for i in range(20)))
    assert cursor.window == WINDOW
    cursor = advance(cursor, 20 * MIB, MIB, grid=GRID, window_bytes=4 * MIB)
    assert cursor.window == 4 * MIB
    assert cursor.wanted == range(4, 7)


def test_segments_a_slack_behind_are_let_go() -> None:
    reads = [(i * MIB, MIB) for i in range(21)]
    assert after(*reads).wanted == range(4, 10)


def test_reads_that_arrive_out_of_order_stay_a_sequence() -> None:
    assert after((0, MIB), (2 * MIB, MIB), (MIB, MIB), (3 * MIB, MIB)).wanted == range(3)


def test_reading_the_same_place_again_is_no_progress() -> None:
    assert after((0, MIB), (0, MIB), (0, MIB)).wanted == range(1)


def test_a_random_jump_wants_nothing() -> None:
    assert after((0, MIB), (MIB, MIB), (40 * MIB, MIB)).wanted == range(0)
    assert after((40 * MIB, MIB)).wanted == range(0)
    reads = [(i * MIB, MIB) for i in range(20)]
    assert after(*reads, (50 * MIB, MIB)) == Cursor(51 * MIB)


def test_a_sequence_is_found_again_after_a_jump() -> None:
    cursor = after((40 * MIB, MIB), (41 * MIB, MIB), (42 * MIB, MIB))
    assert cursor.wanted.stop == GRID.number(51 * MIB - 1) + 1


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


def test_the_budget_follows_the_memory_of_the_process_within_bounds() -> None:
    assert [budget_bytes(n * MIB) // MIB for n in (64, 512, 1024, 4096, 1 << 20)] == [16, 64, 128, 256, 256]


def test_readers_in_sequence_share_the_budget_in_whole_segments() -> None:
    table = SegmentTable(budget_bytes=32 * MIB, segment_bytes=4 * MIB, tasks=Tasks(lambda *_: None), clock=lambda: 0.0)
    readers = [object() for _ in range(9)]
    assert [table.share_bytes(r) // MIB for r in readers] == [32, 16, 8, 8, 4, 4, 4, 4, 4]
    assert table.share_bytes(readers[0]) == 4 * MIB  # the first one as well, at its next read
    for reader in readers[1:]:
        table.leave(reader)
    assert table.share_bytes(readers[0]) == 32 * MIB
