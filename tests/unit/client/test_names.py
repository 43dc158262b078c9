"""Lookups of a client: kept or not, one at a time, counted; several masters behind one registry address."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from forebay.client import Client
from forebay.contracts import LookupReply
from forebay.errors import ConfigError, NotFound
from forebay.telemetry import Telemetry, quiet
from forebay.testing import run
from forebay.testing.fake_cluster import FakeCluster
from forebay.testing.tools import free_ports
from tests.unit.client.test_client import options

FILES = {"a": b"1", "b": b"22"}


def looked(telemetry: Telemetry, result: str) -> float:
    counter = telemetry.metrics.counter("forebay_client_lookups_total", "lookups, by what answered", ("result",))
    return counter.value(result)


def test_a_second_look_costs_no_call_and_both_are_counted() -> None:
    async def main() -> None:
        telemetry = quiet()
        async with FakeCluster(FILES) as cluster, Client(options(cluster), telemetry) as client:
            assert await client.lookup("/a") == await client.lookup("/a")
            with pytest.raises(NotFound):
                await client.lookup("/none")
            with pytest.raises(NotFound):
                await client.lookup("/none")

            assert cluster.master.calls["lookup"] == 2
            assert (looked(telemetry, "miss"), looked(telemetry, "hit"), looked(telemetry, "negative")) == (2, 1, 1)

    run(main())


def test_switched_off_the_cache_keeps_nothing_and_every_look_is_a_call() -> None:
    async def main() -> None:
        async with (
            FakeCluster(FILES) as cluster,
            Client(replace(options(cluster), metadata_cache=False), quiet()) as client,
        ):
            for _ in range(3):
                await client.lookup("/a")
            await client.list_page("/")
            await client.lookup("/b")

            assert cluster.master.calls["lookup"] == 4
            assert client.names_held == 0

    run(main())


def test_an_expiration_of_zero_keeps_nothing_and_the_size_is_a_bound() -> None:
    async def main() -> None:
        async with FakeCluster(FILES) as cluster:
            async with Client(replace(options(cluster), metadata_cache_s=0.0), quiet()) as client:
                await client.lookup("/a")
                await client.lookup("/a")
                assert cluster.master.calls["lookup"] == 2
            async with Client(replace(options(cluster), metadata_cache_entries=1), quiet()) as client:
                await client.lookup("/a")
                await client.lookup("/b")
                assert client.names_held == 1

    run(main())


def test_a_listing_that_is_given_from_memory_brings_back_the_lookups_of_its_names() -> None:
    async def main() -> None:
        count = len(FILES) + 1
        async with (
            FakeCluster(FILES) as cluster,
            Client(replace(options(cluster), metadata_cache_entries=count), quiet()) as client,
        ):
            await client.list_page("/")
            for path in ("/x", "/y", "/z"):  # push the names out of memory, but not the page
                with pytest.raises(NotFound):
                    await client.lookup(path)
            assert client.held("/a") is None

            await client.list_page("/")

            assert cluster.master.calls["list"] == 1
            assert isinstance(client.held("/a"), LookupReply)

    run(main())


def test_many_who_look_for_one_path_at_once_cause_one_call() -> None:
    async def main() -> None:
        async with FakeCluster(FILES) as cluster, Client(options(cluster), quiet()) as client:
            found = await asyncio.gather(*(client.lookup("/a") for _ in range(20)))

            assert {reply.entry.size for reply in found} == {1}
            assert cluster.master.calls["lookup"] == 1
            assert not client._names._asked

    run(main())


def test_who_waits_does_not_fail_with_the_one_that_asked_first() -> None:
    async def main() -> None:
        async with FakeCluster(FILES) as cluster, Client(options(cluster), quiet()) as client:
            first = asyncio.ensure_future(client.lookup("/a"))
            await asyncio.sleep(0)
            second = asyncio.ensure_future(client.lookup("/a"))
            await asyncio.sleep(0)

            first.cancel()

            reply: LookupReply = await second
            assert reply.entry.size == 1
            assert not client._names._asked

    run(main())


def test_where_answers_may_not_be_kept_each_look_gets_an_answer_of_its_own() -> None:
    async def main() -> None:
        async with FakeCluster(FILES) as cluster, Client(options(cluster), quiet()) as client:
            cluster.master.valid_s = 0.0

            await asyncio.gather(*(client.lookup("/a") for _ in range(5)))

            assert cluster.master.calls["lookup"] == 5

    run(main())


def test_a_negative_expiration_below_zero_is_refused() -> None:
    async def main() -> None:
        async with FakeCluster(FILES) as cluster:
            with pytest.raises(ConfigError, match="negative_cache_s"):
                Client(replace(options(cluster), negative_cache_s=-1.0), quiet())

    run(main())


def test_of_several_masters_in_the_registry_setting_one_that_answers_is_enough() -> None:
    async def main() -> None:
        async with FakeCluster(FILES) as cluster:
            dead = f"127.0.0.1:{free_ports(1)[0]}"
            alive = cluster.registry.removeprefix("http://")
            for registry in (f"http://{dead},{alive}", f"http://{alive},{dead}"):
                async with Client(replace(options(cluster), registry=registry), quiet()) as client:
                    assert (await client.lookup("/b")).entry.size == 2

    run(main())
