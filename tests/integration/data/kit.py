"""A Python program in a control group of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

MIB = 1 << 20
LIMIT = 256 * MIB
"""Memory of the group; an eighth of it is what buffers may take."""


def run_inside(group: Path, program: str, *args: object) -> dict[str, Any]:
    """What the program says, as JSON; it must end well."""
    enter = f'echo $$ > {group}/cgroup.procs && exec {sys.executable} -c "$0" "$@"'
    command = ["sh", "-c", enter, program, *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120)
    said: dict[str, Any] = json.loads(done.stdout)
    return said
