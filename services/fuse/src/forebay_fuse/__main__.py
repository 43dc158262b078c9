"""``python -m forebay_fuse``: settings, then the gateway."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import forebay_fuse
from forebay.runtime import load, run
from forebay_fuse.app import serve
from forebay_fuse.settings import FuseSettings


def arguments(argv: Sequence[str]) -> list[str]:
    """``forebay-fuse DIR …`` is short for ``--mountpoint DIR``."""
    if argv and not argv[0].startswith("-"):
        return ["--mountpoint", *argv]
    return list(argv)


def main() -> int:
    """The process; its exit code (2 for a setting that cannot work)."""

    async def gateway() -> int:
        settings = load(
            FuseSettings,
            arguments(sys.argv[1:]),
            prog="forebay-fuse",
            version=forebay_fuse.__version__,
            description="Mounts a Forebay namespace, read-only.",
        )
        return await serve(settings)

    return run(gateway)


if __name__ == "__main__":
    sys.exit(main())
