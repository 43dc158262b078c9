"""Limits toward the under stores."""

from __future__ import annotations

import pytest

from forebay.testing import run
from forebay_worker.budget import BURST_S, Budget, Rates


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def took(everything: Rates, each_mount: Rates, asks: list[tuple[str, int]]) -> float:
    """How long asks one after the other take."""

    async def main() -> float:
        time = Time()
        budget = Budget(everything, each_mount, clock=time, sleep=time.sleep)
        for mount_id, size in asks:
            await budget.admit(mount_id, size)
        return time.now_s - 100.0

    return run(main())


def test_without_limits_nobody_waits() -> None:
    assert took(Rates(), Rates(), [("a", 1 << 40)] * 100) == 0


@pytest.mark.parametrize(
    ("everything", "each_mount"), [(Rates(requests=10), Rates()), (Rates(), Rates(requests=10)), (Rates(10), Rates(50))]
)
def test_requests_go_out_at_their_rate(everything: Rates, each_mount: Rates) -> None:
    assert took(everything, each_mount, [("a", 1)] * 101) == pytest.approx(10 - BURST_S, abs=0.11)


def test_bytes_go_out_at_their_rate_whatever_the_requests_size() -> None:
    for size in (1_000, 50_000, 1_000_000):
        asks = [("a", size)] * (10_000_000 // size + 1)
        assert took(Rates(bytes=1e6), Rates(), asks) == pytest.approx(10 - BURST_S, abs=0.01)


def test_mounts_do_not_wait_for_each_other_but_share_what_all_may() -> None:
    asks = [("a", 1), ("b", 1)] * 50
    alone = took(Rates(), Rates(requests=10), asks)
    assert alone == pytest.approx(5 - BURST_S, abs=0.2)
    assert took(Rates(requests=10), Rates(requests=10), asks) == pytest.approx(10 - BURST_S, abs=0.2)


def test_what_was_not_used_for_long_is_gone() -> None:
    async def main() -> None:
        time = Time()
        budget = Budget(Rates(requests=10), Rates(), clock=time, sleep=time.sleep)
        await budget.admit("a", 1)
        time.now_s += 3600
        for _ in range(20):
            await budget.admit("a", 1)
        assert sum(time.slept) > 1.5

    run(main())
