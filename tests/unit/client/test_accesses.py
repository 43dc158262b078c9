"""``update_access_time`` of a client: off it costs nothing, on masters are told in batches."""

from __future__ import annotations

from dataclasses import replace

from forebay.client import Client
from forebay.client.accesses import KNOWN_MAX, WAITING_MAX, AccessTimes
from forebay.contracts.names import ACCESSES_MAX
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.fake_cluster import FakeCluster
from forebay.transport import HttpClient
from tests.unit.client.test_client import options

FILES = {"a": b"1", "b": b"22"}


def test_off_opening_files_sends_nothing_and_nothing_is_known() -> None:
    async def main() -> None:
        async with FakeCluster(FILES) as cluster:
            async with Client(options(cluster), quiet()) as client:
                for _ in range(3):
                    (await client.open("/a")).free()
                client.note_open("/b")
                assert client.accessed_s("/a") is None
            assert cluster.master.calls.get("accessed", 0) == 0

    run(main())


def test_on_any_number_of_opens_of_any_number_of_files_is_one_request_at_the_end() -> None:
    async def main() -> None:
        async with FakeCluster(FILES) as cluster:
            async with Client(replace(options(cluster), update_access_time=True), quiet()) as client:
                for _ in range(50):
                    (await client.open("/a")).free()
                client.note_open("/b")
                assert client.accessed_s("/a") is not None
                assert cluster.master.calls.get("accessed", 0) == 0
            assert cluster.master.calls["accessed"] == 1
            assert sorted(cluster.master.accessed) == ["/a", "/b"]

    run(main())


def test_what_masters_say_is_known_and_the_later_time_counts() -> None:
    async def main() -> None:
        async with FakeCluster(FILES) as cluster:
            cluster.master.accessed["/a"] = 7.0
            async with Client(replace(options(cluster), update_access_time=True), quiet()) as client:
                await client.lookup("/a")
                await client.lookup("/b")
                assert (client.accessed_s("/a"), client.accessed_s("/b")) == (7.0, None)
                client.note_open("/a")
                told_s = client.accessed_s("/a")
                assert told_s is not None
                assert told_s > 7.0

    run(main())


def test_a_report_has_a_bound_and_what_no_master_takes_is_lost_and_counted() -> None:
    async def main() -> None:
        async with FakeCluster(FILES) as cluster:
            telemetry = quiet()
            http = HttpClient(telemetry)
            masters = [cluster.registry.removeprefix("http://")]
            times = AccessTimes(http, lambda: masters, telemetry.metrics)
            for number in range(ACCESSES_MAX + 1):
                times.opened(f"/{number}", 1.0)
            await times.send()
            assert (cluster.master.calls["accessed"], len(cluster.master.accessed), len(times)) == (
                2,
                ACCESSES_MAX + 1,
                0,
            )
            masters[:] = ["127.0.0.1:1"]
            times.opened("/x", 1.0)
            await times.send()
            assert "forebay_client_accesses_lost_total 1.0" in telemetry.metrics.render().decode()
            assert len(times) == 0
            await http.close()

    run(main())


def test_what_waits_and_what_is_known_have_bounds() -> None:
    async def main() -> None:
        http = HttpClient(quiet())
        times = AccessTimes(http, lambda: (), quiet().metrics)
        for number in range(WAITING_MAX + 1):
            times.opened(f"/{number}", 1.0)
        assert len(times) == WAITING_MAX
        times.heard("/d", {str(number): 2.0 for number in range(KNOWN_MAX)})
        assert (times.of("/0"), times.of(f"/d/{KNOWN_MAX - 1}")) == (None, 2.0)
        await http.close()

    run(main())
