"""Health checks that operators bring: what the setting says, and what an answer means. Pure.

``health_checks`` names them, each with options after semicolons: ``exec:/path/to/check ARGUMENT``,
``http://127.0.0.1:9100/health``, ``entry:NAME`` (a Python entry point of the group ``forebay.health``) or
``python:module:function``; ``;period=30;deadline=2;fail=open``. An answer is one line, ``SCORE [REASON]``, with a score
from 0 (do not ask me) to 1. No line at all is 1 if the check ended well. A check that hangs, crashes or answers
anything else has *failed*, and counts as configured: ``fail=closed`` (default) as 0, ``fail=open`` as 1.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace
from typing import Literal

CHECKS_MAX = 16
ANSWER_BYTES_MAX = 4096
REASON_CHARS_MAX = 200
PERIOD_S = 10.0
DEADLINE_S = 2.0
PERIOD_MAX_S = 86_400.0

Kind = Literal["exec", "url", "python"]


@dataclass(frozen=True)
class CheckSpec:
    """One check. ``target`` is a program with its arguments, a URL, or what ``plugin`` is to call."""

    name: str
    kind: Kind
    target: tuple[str, ...]
    period_s: float = PERIOD_S
    deadline_s: float = DEADLINE_S
    fails_open: bool = False

    @property
    def failed_score(self) -> float:
        """What it counts when it fails, and before it has answered for the first time."""
        return 1.0 if self.fails_open else 0.0


@dataclass(frozen=True)
class Verdict:
    """What one run of a check said; ``failed``: it said nothing that counts."""

    score: float
    reason: str = ""
    failed: bool = False


def parse_checks(texts: tuple[str, ...]) -> tuple[CheckSpec, ...]:
    """The setting's entries. Raises ValueError."""
    specs = tuple(parse_check(text) for text in texts)
    if len(specs) > CHECKS_MAX:
        raise ValueError(f"there are more than {CHECKS_MAX} checks")
    if len({spec.name for spec in specs}) < len(specs):
        raise ValueError("a check is there twice")
    return specs


def parse_check(text: str) -> CheckSpec:
    """One entry. Raises ValueError."""
    what, *options = (part.strip() for part in text.split(";"))
    spec = _target(what)
    for option in options:
        name, _, value = option.partition("=")
        spec = _with(spec, name.strip(), value.strip())
    if spec.deadline_s > spec.period_s:
        raise ValueError(f"{what!r}: the deadline is longer than the period")
    return spec


def _target(what: str) -> CheckSpec:
    kind, _, rest = what.partition(":")
    if kind in ("http", "https") and rest.startswith("//"):
        return CheckSpec(what, "url", (what,))
    if kind == "exec" and rest.startswith("/"):
        return CheckSpec(what, "exec", tuple(shlex.split(rest)))
    if kind == "entry" and rest:
        return CheckSpec(what, "python", (rest,))
    if kind == "python" and rest.partition(":")[2]:
        return CheckSpec(what, "python", (rest,))
    raise ValueError(f"{what!r} is none of exec:/path, http(s)://host/path, entry:NAME, python:module:function")


def _with(spec: CheckSpec, name: str, value: str) -> CheckSpec:
    if name == "fail":
        if value not in ("open", "closed"):
            raise ValueError(f"{spec.name!r}: fail is open or closed")
        return replace(spec, fails_open=value == "open")
    if name not in ("period", "deadline"):
        raise ValueError(f"{spec.name!r}: {name!r} is none of period, deadline, fail")
    seconds = float(value)
    if not 0.05 <= seconds <= PERIOD_MAX_S:
        raise ValueError(f"{spec.name!r}: {name} is from 0.05 to {PERIOD_MAX_S:g} seconds")
    return replace(spec, period_s=seconds) if name == "period" else replace(spec, deadline_s=seconds)


def failed(spec: CheckSpec, why: str) -> Verdict:
    """The verdict of a run that said nothing that counts."""
    return Verdict(spec.failed_score, why[:REASON_CHARS_MAX], failed=True)


def judge_exit(spec: CheckSpec, code: int, output: bytes) -> Verdict:
    """Of a program that ended: by a signal (negative code), or with an exit code."""
    if code:
        return failed(spec, f"was killed by signal {-code}" if code < 0 else f"ended with status {code}")
    return judge_text(spec, output)


def judge_reply(spec: CheckSpec, status: int, body: bytes) -> Verdict:
    """Of a URL's answer; one of 400 and more says that all is not well, whatever its body."""
    return Verdict(0.0, f"status {status}") if status >= 400 else judge_text(spec, body)


def judge_text(spec: CheckSpec, output: bytes) -> Verdict:
    """Of the text that a check gave."""
    if len(output) > ANSWER_BYTES_MAX:
        return failed(spec, f"said more than {ANSWER_BYTES_MAX} bytes")
    line = output.decode("utf-8", "replace").strip().partition("\n")[0].strip()
    if not line:
        return Verdict(1.0)
    score, _, reason = line.partition(" ")
    found = score_of(score)
    if found is None:
        return failed(spec, f"said {_clean(line)[:60]!r}, which is no score from 0 to 1")
    return Verdict(found, _clean(reason.strip())[:REASON_CHARS_MAX])


def score_of(text: str) -> float | None:
    """A number from 0 to 1, or ``None``."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and 0.0 <= found <= 1.0 else None


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
