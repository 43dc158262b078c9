"""``python -m forebay_fuse``: the gateway, or with ``--probe`` a look at one."""

from __future__ import annotations

import sys

from forebay_fuse import memory, probe


def main() -> int:
    """The process; its exit code."""
    if sys.argv[1:2] == ["--probe"]:
        return probe.main(sys.argv[2:])
    memory.choose_allocator()
    from forebay_fuse.command import main as command  # a probe is over before this is loaded

    return command()


if __name__ == "__main__":
    sys.exit(main())
