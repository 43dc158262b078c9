"""A process that is a member, until SIGTERM: ``REGISTRY MEMBER_ID ADDRESS``. Its version is its pid."""

from __future__ import annotations

import os
import sys

from forebay.contracts import Member
from forebay.discovery import open_registry
from forebay.runtime import Deadline, run, stop_event
from forebay.telemetry import quiet
from forebay.transport import HttpClient
from tests.contract.discovery.harness import CLUSTER, OPTIONS


async def main() -> int:
    url, member_id, address = sys.argv[1:]
    stop = stop_event()
    client = HttpClient(quiet())
    registry = open_registry(url, cluster_id=CLUSTER, telemetry=quiet(), client=client, options=OPTIONS)
    try:
        await registry.start(Deadline.after(20))
        await registry.announce(Member(member_id=member_id, role="worker", tcp=address, version=str(os.getpid())))
        await stop.wait()
    finally:
        await registry.close()
        await client.close()
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
