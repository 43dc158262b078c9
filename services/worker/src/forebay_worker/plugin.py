"""``python -m forebay_worker.plugin NAME``: one health check in Python, in a process of its own, so that nothing it
does hurts the worker. Standard library only.

``NAME`` is an entry point of the group ``forebay.health``, or ``module:function``. The function takes nothing and
returns a score from 0 to 1, a bool, or a pair of a score and a reason; what it prints is not looked at.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

GROUP = "forebay.health"


def exists(name: str) -> bool:
    """Whether ``NAME`` can be found; nothing of it is run."""
    module = name.partition(":")[0]
    if ":" not in name:
        return bool(entry_points(group=GROUP, name=name))
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def load(name: str) -> Callable[[], object]:
    """The function. Raises whatever its module raises."""
    if ":" not in name:
        (found,) = entry_points(group=GROUP, name=name)
        entry: Callable[[], object] = found.load()
        return entry
    module, _, function = name.partition(":")
    named: Callable[[], object] = getattr(importlib.import_module(module), function)
    return named


def line_of(answer: object) -> str:
    """The answer as a check's one line."""
    score, reason = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, "")
    shown = float(score) if isinstance(score, (bool, int, float)) else repr(score)
    return f"{shown} {reason}".strip()


def main() -> int:
    """The process: what the check prints goes to standard error, its answer to standard output."""
    out = os.dup(1)
    os.dup2(2, 1)
    os.write(out, line_of(load(sys.argv[1])()).encode()[:4096])
    return 0


if __name__ == "__main__":
    sys.exit(main())
