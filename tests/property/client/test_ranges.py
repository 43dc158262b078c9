"""Pieces and segments tile a read: no gap, no overlap, never across a block's end."""

from hypothesis import given
from hypothesis import strategies as st

from forebay.client.ranges import Grid, clip, pieces
from forebay.client.readahead import Cursor, advance

sizes = st.integers(1, 5_000)


@given(offset=st.integers(0, 10_000), length=st.integers(0, 5_000), block_size=sizes)
def test_pieces_tile_the_read_and_stay_inside_blocks(offset: int, length: int, block_size: int) -> None:
    at = 0
    for piece in pieces(offset, length, block_size):
        assert piece.at == at
        assert piece.index * block_size + piece.offset == offset + at
        assert 0 < piece.length <= block_size - piece.offset
        at += piece.length
    assert at == length


@given(size=sizes, block_size=st.integers(1, 700), segment=st.integers(1, 300))
def test_segments_tile_the_file_and_stay_inside_blocks(size: int, block_size: int, segment: int) -> None:
    grid = Grid(size, block_size, segment)
    at = 0
    for number in range(grid.count):
        piece = grid.piece(number)
        assert piece.at == at == piece.index * block_size + piece.offset
        assert 0 < piece.length <= segment
        assert piece.offset + piece.length <= block_size
        assert grid.number(at) == grid.number(at + piece.length - 1) == number
        at += piece.length
    assert at == size


@given(offset=st.integers(0, 10_000), length=st.integers(0, 5_000), size=st.integers(0, 5_000))
def test_a_read_is_short_only_at_the_files_end(offset: int, length: int, size: int) -> None:
    n = clip(offset, length, size)
    assert 0 <= n <= length
    assert n == length or offset + n >= size
    assert n == 0 or offset + n <= size


@given(
    reads=st.lists(st.tuples(st.integers(0, 4_999), st.integers(1, 600)), max_size=30),
    block_size=st.integers(100, 2_000),
    window=st.integers(0, 1_000),
)
def test_what_is_wanted_is_bounded_and_inside_the_file(
    reads: list[tuple[int, int]], block_size: int, window: int
) -> None:
    grid = Grid(5_000, block_size, 100)
    cursor = Cursor()
    for offset, asked in reads:
        length = clip(offset, asked, grid.size)
        cursor = advance(cursor, offset, length, grid=grid, window_bytes=window)
        assert all(0 <= n < grid.count for n in (cursor.wanted.start, cursor.wanted.stop - 1) if cursor.wanted)
        held = sum(grid.piece(n).length for n in cursor.wanted)
        assert held <= window + 2 * length + 4 * grid.segment
