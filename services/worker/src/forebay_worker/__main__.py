"""``python -m forebay_worker``: settings, then the worker."""

from __future__ import annotations

import sys

import forebay_worker
from forebay.runtime import load, run
from forebay_worker.app import serve
from forebay_worker.settings import WorkerSettings


def main() -> int:
    """The process; its exit code (2 for a setting that cannot work)."""

    async def worker() -> int:
        settings = load(
            WorkerSettings,
            sys.argv[1:],
            prog="forebay-worker",
            version=forebay_worker.__version__,
            description="Keeps blocks in memory and on disks, fills them from the under store, serves ranges of them.",
        )
        return await serve(settings)

    return run(worker)


if __name__ == "__main__":
    sys.exit(main())
