"""``python -m tests.fuzz.run TARGET [libFuzzer's arguments]``: coverage-guided fuzzing of one target, by atheris.

``-max_total_time=60`` bounds it, a folder as argument is a corpus to start from and to add to.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["forebay_fuse", "forebay.transport", "hpack"]):
    from tests.fuzz import targets, transport


def main() -> None:
    """Runs until a limit of the arguments is reached or something is found; never returns."""
    target = (targets.TARGETS | transport.TARGETS)[sys.argv[1]]()
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
