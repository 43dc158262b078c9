"""The guard: a parent process that has loaded everything and starts a gateway that died anew, within milliseconds.

Loading the gateway's modules takes more than a second of CPU, and readers wait for that long; a fork takes none. So
the process that the user starts loads and reads its settings, and serves in a child. It holds nothing: the mount is the
keeper's. If it is killed itself, the child goes with it, and who started it starts it again.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from forebay.runtime import logs
from forebay.runtime.supervisor import EXIT_CONFIG, EXIT_FAILED
from forebay_fuse.parents import die_with_parent

SHORT_LIFE_S = 2.0
DEATHS_MAX = 10
"""Gateways that die young, one after the other, before it is given up."""

DELAY_S, DELAY_MAX_S = 0.05, 5.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOG = logs.get(__name__)


@dataclass(frozen=True)
class Deaths:
    """How many gateways in a row died young. Pure."""

    count: int = 0

    def after(self, lived_s: float) -> tuple[Deaths, float | None]:
        """One more, after so long a life; seconds until the next is started (``None``: it is not)."""
        count = 1 if lived_s >= SHORT_LIFE_S else self.count + 1
        if count > DEATHS_MAX:
            return Deaths(count), None
        return Deaths(count), 0.0 if count == 1 else min(DELAY_S * 2.0**count, DELAY_MAX_S)


class Guard:
    """Runs ``serve`` in a child, again and again. For a process of one thread."""

    def __init__(self, serve: Callable[[], int]) -> None:
        self._serve = serve
        self._child = 0
        self._stopping = False

    def run(self) -> int:
        """The exit code: the gateway's own, if it ended by itself or was told to."""
        gc.collect()
        gc.freeze()  # pages that no collection touches stay shared with the child
        for number in SIGNALS:
            signal.signal(number, self._forward)
        deaths = Deaths()
        while not self._stopping:
            began_s = time.monotonic()
            status = self._once()
            code = os.waitstatus_to_exitcode(status)
            if self._stopping or code in (0, EXIT_CONFIG):
                return code if code >= 0 else EXIT_FAILED
            deaths, delay_s = deaths.after(time.monotonic() - began_s)
            LOG.error("gateway_died", status=code, restarted=delay_s is not None, deaths=deaths.count)
            if delay_s is None:
                return EXIT_FAILED
            time.sleep(delay_s)
        return EXIT_FAILED

    def _once(self) -> int:
        """One life. Signals wait until the child can take them."""
        guard = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        child = os.fork()
        if child == 0:
            self._be_gateway(guard)
        self._child = child
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        _, status = os.waitpid(child, 0)
        self._child = 0
        return status

    def _be_gateway(self, guard: int) -> NoReturn:
        """The child; does not return. SIGTERM stays blocked until the gateway can unmount at it."""
        code = EXIT_FAILED
        try:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            if die_with_parent(guard):
                code = self._serve()
        finally:
            os._exit(code)  # the parent's exit handlers are not ours

    def _forward(self, number: int, _frame: object) -> None:
        self._stopping = True
        if self._child:
            os.kill(self._child, number)
