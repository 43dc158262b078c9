"""What the benches of moving bytes make of what their reader saw."""

from __future__ import annotations

from bench.moving_faults import READ_BYTES, Seen


def seen(rates: list[int]) -> Seen:
    """So many reads in each second."""
    ends = [second + (n + 0.5) / count for second, count in enumerate(rates) for n in range(count)]
    return Seen(tuple((end, 0.1) for end in ends), (), 0)


def test_throughput_is_back_when_two_seconds_gave_what_was_wanted() -> None:
    a_read = READ_BYTES / 1e6
    dip = seen([40, 10, 10, 20, 40, 40, 40, 40])
    assert dip.back_s(1.0, 39.99 * a_read, 7.0) == 3.0
    assert dip.back_s(4.0, 39.99 * a_read, 4.0) == 0.0
    assert dip.back_s(1.0, 41 * a_read, 7.0) == 5.0  # never: all of the time
