"""``python -m forebay_master``: settings, then the master."""

from __future__ import annotations

import sys

import forebay_master
from forebay.runtime import load, run
from forebay_master.app import serve
from forebay_master.settings import MasterSettings


def main() -> int:
    """The process; its exit code (2 for a setting that cannot work)."""

    async def master() -> int:
        settings = load(
            MasterSettings,
            sys.argv[1:],
            prog="forebay-master",
            version=forebay_master.__version__,
            description="Keeps the namespace: mounts, listings with layouts, tickets, the cluster map.",
        )
        return await serve(settings)

    return run(master)


if __name__ == "__main__":
    sys.exit(main())
