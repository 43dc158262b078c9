"""One trace runs from a client's call through entry worker and home to the under store."""

from __future__ import annotations

from pathlib import Path

from forebay.contracts.blocks import TICKET_HEADER
from forebay.runtime import Deadline
from forebay.telemetry import setup
from forebay.testing import run
from forebay.testing.otlp import otlp_receiver
from forebay.transport import HttpClient
from tests.contract.worker.kit import MIB, File, cluster, ticket
from tests.unit.worker.kit import content


def test_a_read_through_the_home_is_one_trace_down_to_the_under_store(tmp_path: Path) -> None:
    with otlp_receiver() as receiver:

        async def main() -> str:
            telemetry = setup("client", member_id="c", otlp_endpoint=receiver.endpoint, sample_ratio=1.0)
            async with cluster(tmp_path) as c:
                workers = [await c.add(name, otlp_endpoint=receiver.endpoint) for name in ("w1", "w2")]
                file = File.write(c.mount, "a", content(5 * MIB))
                entry = next(worker for worker in workers if worker.homes.upstream(file.block_id()).home is not None)
                client = HttpClient(telemetry)
                with telemetry.tracer.start("epoch", kind="internal", root=True) as span:
                    buffer = memoryview(bytearray(5 * MIB))
                    await client.read_into(
                        entry.server.address,
                        file.path(),
                        buffer,
                        deadline=Deadline.after(10),
                        headers={TICKET_HEADER: ticket()},
                    )
                await client.close()
            telemetry.shutdown()
            return span.context.trace_id

        trace_id = run(main(), watchdog_s=60)
        spans = [span for span in receiver.spans() if span.trace_id == trace_id]
        by_id = {span.span_id: span for span in spans}
        reads = [span for span in spans if span.name == "ufs read"]
        assert reads
        for found in reads:
            services, above = [found.service], found
            while above.parent_id:
                above = by_id[above.parent_id]
                services.append(above.service)
            assert services[-1] == "client"
            assert services.count("forebay-worker") >= 3
        assert "v1.k1." not in str(spans)
