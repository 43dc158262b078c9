"""How the connection to the registry is doing: the pause after a failure, the log lines, the metrics.

An outage is logged when it begins and when it ends, and once a minute between: not with each failed call.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from forebay.errors import ForebayError
from forebay.runtime import logs
from forebay.telemetry import Telemetry

REMIND_S = 60.0

LOG = logs.get(__name__)


class Link:
    """One registry as one process sees it."""

    def __init__(
        self,
        address: str,
        telemetry: Telemetry,
        *,
        retry_min_s: float,
        retry_max_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self._clock = clock
        self._retry_min_s, self._retry_max_s = retry_min_s, retry_max_s
        self._failures = 0
        self._said_s: float | None = None
        self._heard_s = clock()
        self._up = telemetry.metrics.gauge("forebay_discovery_connected", "1 while the registry answers")
        self._errors = telemetry.metrics.counter(
            "forebay_discovery_errors_total", "Failed calls to the registry", ("code",)
        )
        self._up.set(0)

    @property
    def heard_s(self) -> float:
        """When the registry last answered (monotonic seconds)."""
        return self._heard_s

    def worked(self) -> None:
        """It answered."""
        self._heard_s = self._clock()
        self._failures = 0
        self._up.set(1)
        if self._said_s is not None:
            LOG.info("registry_reachable", address=self.address)
            self._said_s = None

    def failed(self, error: ForebayError, *, doing: str) -> float:
        """It did not; seconds to wait before the next attempt (half of it is chance, so a cluster does not return
        in step)."""
        now_s = self._clock()
        self._up.set(0)
        self._errors.add(1, error.code)
        if self._said_s is None or now_s - self._said_s >= REMIND_S:
            LOG.warning(
                "registry_unreachable", address=self.address, doing=doing, code=error.code, reason=error.message
            )
            self._said_s = now_s
        pause_s: float = min(self._retry_max_s, self._retry_min_s * 2 ** min(self._failures, 16))
        self._failures += 1
        return pause_s * random.uniform(0.5, 1.0)
