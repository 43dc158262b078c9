"""The serving weight, and what it is made of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forebay_worker.serving import SLOW_START_MIN, SLOW_START_S, Vitals, base_weight, serving_weight
from forebay_worker.vitals import CpuMeter, VitalSigns

SHARES = st.floats(0.0, 1.0)
VITALS = st.builds(
    Vitals,
    cpu_used=SHARES,
    fills_per_stream=st.floats(0.0, 100.0),
    leaving=SHARES,
    health=SHARES,
    age_s=st.floats(0.0, 1000.0),
)


def test_the_weight_falls_with_the_reads_in_flight_and_never_to_zero() -> None:
    weights = [serving_weight(1.0, count) for count in (0, 1, 16, 1000)]
    assert weights == sorted(weights, reverse=True)
    assert (weights[0], weights[2]) == (1.0, 0.5)
    assert weights[-1] > 0


@given(VITALS, st.integers(0, 1000))
def test_only_ill_health_makes_the_weight_zero(vitals: Vitals, in_flight: int) -> None:
    weight = serving_weight(base_weight(vitals), in_flight)
    assert 0.0 <= weight <= 1.0
    assert (weight == 0.0) == (vitals.health == 0.0)


def test_whatever_is_short_lowers_the_weight() -> None:
    best = base_weight(Vitals())
    assert best == 1.0
    for worse in (
        Vitals(cpu_used=0.5),
        Vitals(fills_per_stream=4.0),
        Vitals(leaving=0.5),
        Vitals(health=0.5),
        Vitals(age_s=SLOW_START_S / 2),
    ):
        assert base_weight(worse) < best


def test_a_joiner_starts_slowly() -> None:
    ages = [base_weight(Vitals(age_s=SLOW_START_S * share)) for share in (0.0, 0.25, 0.5, 1.0, 9.0)]
    assert ages[0] == SLOW_START_MIN
    assert ages == sorted(ages)
    assert ages[-2:] == [1.0, 1.0]


def test_cpu_is_measured_against_what_is_granted() -> None:
    used, now = iter([10.0, 11.0, 11.0, 99.0]), iter([100.0, 102.0, 104.0, 105.0])
    meter = CpuMeter(used_s=lambda: next(used), quota=lambda: 1.0, clock=lambda: next(now))
    assert [meter.share() for _ in range(3)] == [0.5, 0.0, 1.0]


def test_this_process_can_be_measured() -> None:
    assert 0.0 <= CpuMeter().share() <= 1.0


def test_the_least_of_disks_and_checks_is_the_health() -> None:
    signs = VitalSigns(
        meter=CpuMeter(used_s=lambda: 0.0, clock=lambda: 0.0),
        health=lambda: 0.5,
        fills_per_stream=lambda: 0.0,
        leaving=lambda: 0.0,
        in_service=lambda: 0.75,
        clock=iter([0.0, SLOW_START_S]).__next__,
    )
    signs.look()
    assert (signs.vitals.health, signs.base) == (0.5, 0.5)
