"""What a probe found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "no effect", "not set", "cannot tell"]


@dataclass(frozen=True)
class Finding:
    """One switch: whether it does what it says, and what was seen."""

    switch: str
    verdict: Verdict
    saw: str


def is_sound(findings: Sequence[Finding]) -> bool:
    """Whether every switch that is set has its effect."""
    return all(finding.verdict != "no effect" for finding in findings)
