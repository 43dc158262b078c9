"""A moment by which something must be over, handed down instead of time-outs that add up."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType

from forebay.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """``at_s`` is a moment on this process's monotonic clock."""

    at_s: float

    @staticmethod
    def after(seconds: float) -> Deadline:
        """The moment ``seconds`` from now."""
        return Deadline(time.monotonic() + seconds)

    def remaining_s(self) -> float:
        """Seconds left; 0 when it has passed."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether it has passed."""
        return self.remaining_s() == 0.0

    def sooner(self, seconds: float) -> Deadline:
        """This deadline, or the one ``seconds`` from now if that comes first."""
        return min(self, Deadline.after(seconds), key=lambda d: d.at_s)

    def timeout(self) -> Bounded:
        """``async with deadline.timeout():`` cancels its body at the deadline and raises `DeadlineExceeded`."""
        return Bounded(self)


class Bounded:
    """`asyncio.timeout` that speaks our errors. A `TimeoutError` of the body's own passes through unchanged."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._started_s = time.monotonic()
        self._timeout: asyncio.Timeout | None = None

    async def __aenter__(self) -> None:
        self._timeout = asyncio.timeout(self._deadline.remaining_s())
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timeout is not None
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as e:
            waited_s = time.monotonic() - self._started_s
            raise DeadlineExceeded(f"time ran out after {waited_s:.1f} s", waited_s=round(waited_s, 3)) from e
