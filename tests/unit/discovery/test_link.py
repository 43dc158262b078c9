"""The connection's state as logs and metrics show it."""

from __future__ import annotations

import logging

import pytest

from forebay.discovery.link import REMIND_S, Link
from forebay.errors import PeerUnavailable
from forebay.telemetry import quiet

ERROR = PeerUnavailable("nobody there")


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_an_outage_is_said_when_it_begins_once_a_minute_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="forebay")
    clock = Clock()
    link = Link("zk:2181", quiet(), retry_min_s=0.2, retry_max_s=3.0, clock=clock)
    link.worked()
    for _ in range(100):
        link.failed(ERROR, doing="watch")
        clock.now_s += REMIND_S / 60
    link.worked()
    link.worked()

    said = [record.getMessage() for record in caplog.records]
    assert sum("registry_unreachable" in line for line in said) == 2
    assert sum("registry_reachable" in line for line in said) == 1
    assert all("zk:2181" in line for line in said)


def test_pauses_grow_to_their_limit_and_begin_anew_after_success() -> None:
    link = Link("h", quiet(), retry_min_s=0.2, retry_max_s=3.0)
    pauses = [link.failed(ERROR, doing="watch") for _ in range(50)]
    assert 0.1 <= pauses[0] <= 0.2
    assert all(1.5 <= pause <= 3.0 for pause in pauses[5:])
    link.worked()
    assert link.failed(ERROR, doing="watch") <= 0.2


def test_the_metrics_tell_reachable_from_not() -> None:
    telemetry = quiet()
    link = Link("h", telemetry, retry_min_s=0.2, retry_max_s=3.0)
    assert "forebay_discovery_connected 0.0" in telemetry.metrics.render().decode()
    link.worked()
    assert "forebay_discovery_connected 1.0" in telemetry.metrics.render().decode()
    link.failed(ERROR, doing="watch")
    text = telemetry.metrics.render().decode()
    assert "forebay_discovery_connected 0.0" in text
    assert 'forebay_discovery_errors_total{code="peer_unavailable"} 1.0' in text
