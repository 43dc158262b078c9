"""How much of a cheap thing a peer may do per second before we call it a flood."""

from __future__ import annotations

from forebay.transport.frames import ErrorCode, ProtocolError
from forebay.transport.limits import Limits


class Budget:
    """A number that falls with use and is full again at each refill (once a second, by the connection's owner)."""

    __slots__ = ("left", "limit", "what")

    def __init__(self, what: str, limit: int) -> None:
        self.what = what
        self.limit = limit
        self.left = limit

    def spend(self) -> None:
        """One more.

        Raises:
            ProtocolError: ENHANCE_YOUR_CALM.
        """
        self.left -= 1
        if self.left < 0:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, f"more than {self.limit} {self.what} a second")


class Budgets:
    """All budgets of one connection."""

    __slots__ = ("faults", "idle_frames", "pings", "resets", "settings", "small_updates")

    def __init__(self, limits: Limits) -> None:
        self.resets = Budget("resets", limits.resets_per_s)
        self.faults = Budget("stream errors", limits.faults_per_s)
        self.settings = Budget("SETTINGS", limits.settings_per_s)
        self.pings = Budget("PINGs", limits.pings_per_s)
        self.idle_frames = Budget("frames that do nothing", limits.idle_frames_per_s)
        self.small_updates = Budget("small WINDOW_UPDATEs", limits.small_updates_per_s)

    def refill(self) -> None:
        """A second has passed."""
        for name in self.__slots__:
            budget: Budget = getattr(self, name)
            budget.left = budget.limit
