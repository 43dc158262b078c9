"""The client against a cluster of real HTTP servers with scripted answers."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forebay.client import Client, ClientOptions, LocationPolicy, Reader
from forebay.client.client import HINTED_TOUCH_S, report_pause_s
from forebay.contracts import LookupReply, TierInfo, identity
from forebay.contracts.blocks import format_range
from forebay.errors import DeadlineExceeded, InvalidRequest, NotFound, StaleVersion
from forebay.telemetry import Telemetry, quiet
from forebay.testing import run
from forebay.testing.fake_cluster import FakeCluster, Fault, entry_of

BLOCK = 256 << 10
SEGMENT = 64 << 10
DATA = random.Random(1).randbytes(3 * BLOCK + 12_345)


def options(cluster: FakeCluster) -> ClientOptions:
    return ClientOptions(
        registry=cluster.registry,
        client_id="test",
        readahead_bytes=4 * SEGMENT,
        readahead_budget_bytes=8 * SEGMENT,
        segment_bytes=SEGMENT,
        read_deadline_s=5.0,
        step_deadline_s=0.3,
        connect_timeout_s=0.5,
        touch_interval_s=0.05,
    )


def with_client(
    body: Callable[[FakeCluster, Client], Awaitable[None]],
    *,
    files: dict[str, bytes] | None = None,
    workers: int = 1,
    change: Callable[[ClientOptions], ClientOptions] = lambda o: o,
    telemetry: Telemetry | None = None,
) -> None:
    async def main() -> None:
        async with (
            FakeCluster(files if files is not None else {"a": DATA}, workers=workers, block_size=BLOCK) as cluster,
            Client(change(options(cluster)), telemetry or quiet()) as client,
        ):
            await body(cluster, client)
            await until(lambda: client._segments.held_bytes == 0)  # readers are closed, so nothing is held
            client._segments.validate()
            assert client._source.loads.in_flight == 0

    run(main())


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.005)


def test_a_lookup_is_asked_once_and_a_listing_answers_later_lookups() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        assert (await client.lookup("/a")).entry.size == len(DATA)
        assert (await client.lookup("/a/")).entry.name == "a"
        assert cluster.master.calls["lookup"] == 1
        assert [e.name async for e in client.list("/")] == ["a", "b"]
        assert (await client.lookup("/b")).entry.size == 1
        assert cluster.master.calls["lookup"] == 1

    with_client(body, files={"a": DATA, "b": b"x"})


def test_a_missing_path_is_not_found_and_asked_once() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        for _ in range(3):
            with pytest.raises(NotFound):
                await client.lookup("/nowhere")
        assert cluster.master.calls["lookup"] == 1

    with_client(body)


def test_paths_that_are_not_absolute_and_plain_are_refused() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        for path in ("a", "", "/a/../b", "/a\0"):
            with pytest.raises(InvalidRequest):
                await client.lookup(path)

    with_client(body)


def test_a_listing_is_read_page_by_page() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        page = await client.list_page("/", limit=2)
        assert [e.name for e in page.entries] == ["a", "b"]
        page = await client.list_page("/", page.next_page_token)
        assert [e.name for e in page.entries] == ["c"]
        assert page.next_page_token is None

    with_client(body, files={"a": b"1", "b": b"2", "c": b"3"})


def test_a_file_is_read_in_sequence_and_every_byte_is_asked_for_once() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        got = bytearray()
        while piece := await reader.read(len(got), 20_000):
            got += piece
        assert bytes(got) == DATA
        await reader.close()
        asked = [(index, text) for index, text, _ in cluster.workers[0].requests]
        assert len(asked) == len(set(asked))
        assert sum(int(t.split("-")[1]) - int(t.split("=")[1].split("-")[0]) + 1 for _, t in asked) == len(DATA)
        assert cluster.master.calls["ticket"] == 1

    with_client(body, change=lambda o: replace(o, step_deadline_s=5.0))  # no second try on a busy machine


def test_a_sequential_reader_keeps_two_requests_in_flight() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        cluster.workers[0].latency_s = 0.002
        reader = await client.open("/a")
        for offset in range(0, len(DATA), 20_000):
            await reader.read(offset, 20_000)
        assert cluster.workers[0].in_flight_max >= 2
        await reader.close()

    with_client(body)


def test_random_reads_ask_for_just_their_bytes() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        rng = random.Random(2)
        for _ in range(20):
            offset = rng.randrange(SEGMENT * 2, len(DATA))
            assert await reader.read(offset, 1_000) == DATA[offset : offset + 1_000]
        longest = max(
            int(t.split("-")[1]) - int(t.split("=")[1].split("-")[0]) + 1 for _, t, _ in cluster.workers[0].requests
        )
        assert longest <= 1_000
        await reader.close()

    with_client(body)


def test_a_read_is_short_only_at_the_end_and_an_empty_file_has_no_bytes() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        assert await reader.read(len(DATA) - 5, 100) == DATA[-5:]
        assert await reader.read(len(DATA), 100) == b""
        assert await reader.read(len(DATA) + 10, 100) == b""
        with pytest.raises(InvalidRequest):
            await reader.read(-1, 1)
        await reader.close()
        empty = await client.open("/empty")
        assert await empty.read(0, 10) == b""
        await empty.close()

    with_client(body, files={"a": DATA, "empty": b""})


def test_one_large_read_is_cut_into_requests_inside_blocks() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        assert await reader.read(1, len(DATA)) == DATA[1:]
        assert {index for index, _, _ in cluster.workers[0].requests} == {0, 1, 2, 3}
        await reader.close()

    with_client(body)


def test_what_readahead_holds_can_be_seen_without_a_copy() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        assert reader.peek(0, 10_000) is None
        await reader.read(0, 10_000)
        views = reader.peek(10_000, 10_000)
        assert views is not None
        assert b"".join(views) == DATA[10_000:20_000]
        await until(lambda: reader.peek(20_000, 150_000) is not None)
        assert b"".join(reader.peek(20_000, 150_000) or []) == DATA[20_000:170_000]
        await reader.close()

    with_client(body)


def test_what_is_lent_stays_as_it_is_and_held_until_it_is_given_back() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader, other = await client.open("/a"), await client.open("/a")
        async with reader.lend(0, 10_000) as views:  # nothing is read ahead yet
            assert b"".join(views) == DATA[:10_000]
        await until(lambda: reader.peek(10_000, 10_000) is not None)
        async with reader.lend(10_000, 150_000) as views:
            assert len(views) > 1
            await reader.close()
            assert await other.read(300_000, 200_000) == DATA[300_000:500_000]
            assert b"".join(views) == DATA[10_000:160_000]
            assert all(view.readonly for view in views)
            assert client._segments.held_bytes > 0
        await other.close()
        with pytest.raises(InvalidRequest):
            async with reader.lend(0, 1):
                pass

    with_client(body)


def test_two_readers_of_one_version_share_what_is_fetched() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        one, two = await client.open("/a"), await client.open("/a")
        assert set(await asyncio.gather(one.read(0, 9_999), two.read(0, 9_999))) == {DATA[:9_999]}
        assert cluster.workers[0].requests == [(0, format_range(0, SEGMENT), False)]
        await one.close()
        assert await two.read(9_999, 10) == DATA[9_999:10_009]
        await two.close()

    with_client(body)


def test_readahead_of_many_readers_stays_within_the_budget() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        readers = [await client.open(f"/{i}") for i in range(8)]

        async def read(reader_index: int) -> None:
            reader, data = readers[reader_index], files[str(reader_index)]
            for offset in range(0, len(data), 30_000):
                assert await reader.read(offset, 30_000) == data[offset : offset + 30_000]
                assert client._segments.held_bytes <= 8 * SEGMENT

        await asyncio.gather(*(read(i) for i in range(8)))
        for reader in readers:
            await reader.close()
        await until(lambda: client._segments.held_bytes == 0)

    files = {str(i): random.Random(i).randbytes(300_000) for i in range(8)}
    with_client(body, files=files)


def test_closing_a_reader_in_mid_flight_frees_its_buffers() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        await reader.read(0, 1_000)
        cluster.workers[0].fault = "stall"
        await reader.read(1_000, 1_000)
        assert client._segments.held_bytes > 0
        await reader.close()
        await until(lambda: client._segments.held_bytes == 0)

    with_client(body)


def home_first(cluster: FakeCluster, client: Client, index: int = 0) -> list[int]:
    """Workers in the ranking of the file's block, by number."""
    layout = entry_of("a", DATA, block_size=BLOCK).layout
    assert layout is not None
    ranked = client._members.block(identity.block_id(layout.version_id, BLOCK, index)).ranked
    return [int(m.member_id[1:]) for m in ranked]


def test_when_the_home_does_not_listen_the_next_in_ranking_serves_without_forwarding() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        home, second, _ = home_first(cluster, client)
        await cluster.stop(f"w{home}")
        reader = await client.open("/a")
        assert await reader.read(0, 1_000) == DATA[:1_000]
        assert cluster.workers[second].requests[0][2] is True
        await reader.close()

    with_client(body, workers=3)


@pytest.mark.parametrize("fault", ["stall", "overloaded", "truncate", "shift"])
def test_when_the_home_fails_the_next_in_ranking_serves(fault: Fault) -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        home, second, _ = home_first(cluster, client)
        cluster.workers[home].fault = fault
        reader = await client.open("/a")
        assert await reader.read(70_000, 1_000) == DATA[70_000:71_000]
        assert [hop for _, _, hop in cluster.workers[second].requests] == [True]
        await reader.close()

    with_client(body, workers=3)


def test_a_home_that_stalls_costs_its_deadline_once() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        home = home_first(cluster, client)[0]
        cluster.workers[home].fault = "stall"
        reader = await client.open("/a")
        await reader.read(70_000, 1_000)
        started = time.monotonic()
        await reader.read(90_000, 1_000)
        assert time.monotonic() - started < 0.2
        await reader.close()

    with_client(body, workers=2)


def held_off(o: ClientOptions) -> ClientOptions:
    """No readahead, and a step deadline that no test may wait for."""
    return replace(o, readahead_bytes=0, step_deadline_s=4.0)


async def warmed(client: Client, reads: int = 30) -> Reader:
    """A reader of a client that knows how long answers take."""
    reader = await client.open("/a")
    for offset in range(reads):
        assert await reader.read(offset * 1_000, 1_000) == DATA[offset * 1_000 : (offset + 1) * 1_000]
    return reader


def test_a_late_answer_is_asked_for_a_second_time_of_another_that_may_hold_it() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await warmed(client)
        home, second, third = home_first(cluster, client)
        cluster.workers[home].fault = "stall"
        started = time.monotonic()
        assert await reader.read(70_000, 1_000) == DATA[70_000:71_000]
        assert time.monotonic() - started < 1.0
        assert (cluster.workers[second].probes, cluster.workers[third].probes) == (1, 0)
        await reader.close()

    with_client(body, workers=3, change=held_off)


def test_a_second_request_in_vain_waits_for_the_first_and_is_not_repeated() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await warmed(client)
        home, second, _ = home_first(cluster, client)
        cluster.workers[home].latency_s = 0.2
        cluster.workers[second].cold = True
        for _ in range(2):
            assert await reader.read(70_000, 1_000) == DATA[70_000:71_000]
        assert cluster.workers[second].probes == 1
        assert not [hop for _, _, hop in cluster.workers[second].requests[1:]]
        await reader.close()

    with_client(body, workers=3, change=held_off)


def test_a_home_that_fills_and_loses_to_second_requests_is_not_taken_for_slow() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await warmed(client)
        home = home_first(cluster, client)[0]
        other = next(i for i in range(1, 4) if home_first(cluster, client, i)[0] != home)
        # given: a home that asks the under store, while another holds the block
        cluster.workers[home].latency_s, cluster.workers[home].source = 0.1, "ufs"
        client._members.update(client._members.map or pytest.fail("there is no map"))
        # when it loses one race after the other
        began_s = time.monotonic()
        while time.monotonic() < began_s + 2.0:
            await reader.read(other * BLOCK, 1_000)  # another worker's pace is known
            assert await reader.read(70_000, 1_000) == DATA[70_000:71_000]
            # then its tiers are not blamed
            assert not client._source.paces.slow(time.monotonic())
        assert client._source._hedged.value("yes") >= 10
        await reader.close()

    with_client(body, workers=3, change=held_off)


def test_without_hedges_a_late_home_is_waited_for() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await warmed(client)
        home = home_first(cluster, client)[0]
        cluster.workers[home].latency_s = 0.2
        assert await reader.read(70_000, 1_000) == DATA[70_000:71_000]
        assert [w.probes for w in cluster.workers] == [0, 0, 0]
        await reader.close()

    with_client(body, workers=3, change=lambda o: replace(held_off(o), hedge=False))


async def make_slow(cluster: FakeCluster, client: Client, reader: Reader) -> int:
    """The home of the first block answers late until the client has noticed; its number."""
    home = home_first(cluster, client)[0]
    other = next(i for i in range(1, 4) if home_first(cluster, client, i)[0] != home)
    for _ in range(5):  # another worker's pace is known
        await reader.read(other * BLOCK, 1_000)
    cluster.workers[home].latency_s = 0.1
    started = time.monotonic()
    while not client._source.paces.slow(time.monotonic()):
        await reader.read(70_000, 1_000)
        assert time.monotonic() - started < 20
    return home


def test_a_slow_home_is_found_by_latency_alone_and_avoided() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await warmed(client)
        home = await make_slow(cluster, client, reader)
        asked = len(cluster.workers[home].requests)
        for _ in range(10):
            assert await reader.read(70_000, 1_000) == DATA[70_000:71_000]
        assert len(cluster.workers[home].requests) == asked
        await reader.close()

    with_client(body, workers=3, change=lambda o: replace(held_off(o), hedge=False))


@pytest.mark.parametrize(("weights", "least", "most"), [(("1", "1"), 0.2, 0.8), (("1", "0.02"), 0.0, 0.2)])
def test_reads_of_a_block_with_replicas_go_to_both_as_their_serving_weights_say(
    weights: tuple[str, str], least: float, most: float
) -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        cluster.master.replicas = 2
        home, replica, third = home_first(cluster, client)
        for number, weight in zip((home, replica), weights, strict=True):
            cluster.workers[number].serving_weight, cluster.workers[number].latency_s = weight, 0.01
        reader = await client.open("/a")

        async def one(offset: int) -> None:
            assert await reader.read(offset, 500) == DATA[offset : offset + 500]

        # when many are read, several at a time (the first tell the weights)
        for start in range(0, 80_000, 8_000):
            await asyncio.gather(*(one(start + n * 1_000) for n in range(8)))
        # then
        asked = [len(cluster.workers[number].requests) for number in (home, replica, third)]
        assert asked[2] == 0
        assert least <= asked[1] / sum(asked) <= most, asked
        await reader.close()

    with_client(body, workers=3, change=lambda o: replace(held_off(o), hedge=False))


def test_who_waits_at_a_home_that_is_found_slow_goes_on_to_the_next() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await warmed(client)
        home, second, _ = home_first(cluster, client)
        # given: a read that its home does not answer
        cluster.workers[home].fault = "stall"
        asked = len(cluster.workers[home].requests)
        waiting = asyncio.create_task(reader.read(200_000, 1_000))
        await until(lambda: len(cluster.workers[home].requests) > asked)
        cluster.workers[home].fault = "none"
        # when others find out that it is slow
        await make_slow(cluster, client, reader)
        # then it waits no longer, though the home is alive and its deadline far
        assert await asyncio.wait_for(waiting, 5.0) == DATA[200_000:201_000]
        assert [hop for _, _, hop in cluster.workers[second].requests][-1] is True
        # and the home is slow, not failing
        assert home not in {int(name[1:]) for name in client._source.suspects.now(time.monotonic())}
        await reader.close()

    with_client(
        body,
        workers=3,
        change=lambda o: replace(o, readahead_bytes=0, hedge=False, step_deadline_s=60.0, read_deadline_s=120.0),
    )


def test_a_home_that_had_to_fetch_what_it_held_before_is_not_found_slow_for_it() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await warmed(client)
        home, paces = home_first(cluster, client)[0], client._source.paces
        before = paces.is_doubted(f"w{home}", time.monotonic())
        cluster.workers[home].source = "ufs"
        await reader.read(90_000, 1_000)
        first = paces.is_doubted(f"w{home}", time.monotonic())
        await reader.close()

        assert (before, first) == (False, True)

    with_client(body, workers=3, change=lambda o: replace(held_off(o), hedge=False))


def test_a_block_that_a_slow_home_is_filling_is_not_filled_by_another_as_well() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await warmed(client)
        home = home_first(cluster, client)[0]
        # given: the home has just brought a part of the block from the under store, and is found slow
        await make_slow(cluster, client, reader)
        cluster.workers[home].source = "ufs"
        client._source.paces.retain(())
        await reader.read(90_000, 1_000)
        cluster.workers[home].source = "mem"
        await make_slow(cluster, client, reader)
        # when: more of it is read
        others = [len(worker.requests) for number, worker in enumerate(cluster.workers) if number != home]
        for offset in range(0, 50_000, 5_000):
            assert await reader.read(offset, 1_000) == DATA[offset : offset + 1_000]
        # then: nobody else was asked for it
        assert [len(worker.requests) for number, worker in enumerate(cluster.workers) if number != home] == others
        await reader.close()

    with_client(body, workers=3, change=lambda o: replace(held_off(o), hedge=False))


def test_who_was_offered_a_block_is_asked_first_and_its_home_if_it_has_lost_it() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        home, second, _ = (cluster.workers[i] for i in home_first(cluster, client))
        home.offers = second.name
        await reader.read(70_000, 1_000)
        assert (len(home.requests), len(second.requests)) == (1, 0)
        await reader.read(70_000, 1_000)
        assert (len(home.requests), len(second.requests), second.probes) == (1, 1, 1)
        second.cold = True
        for _ in range(2):
            assert await reader.read(70_000, 1_000) == DATA[70_000:71_000]
        assert (len(home.requests), second.probes) == (3, 2)
        await reader.close()

    with_client(body, workers=3, change=held_off)


@pytest.mark.parametrize("policy", ["local-first", "local-first-avoid-eviction"])
def test_local_first_asks_the_worker_of_this_host_and_says_where_a_copy_may_go(
    tmp_path: Path, policy: LocationPolicy
) -> None:
    (tmp_path / "nonce").write_text("a" * 32)

    async def body(cluster: FakeCluster, client: Client) -> None:
        home, other, _ = (cluster.workers[i] for i in home_first(cluster, client))
        other.tiers = (TierInfo(tier="MEM", capacity_bytes=1, nonce="a" * 32),)
        await cluster.announce(other, available_bytes=100)
        await until(lambda: client._local.member_ids == {other.name})
        reader = await client.open("/a")
        await reader.read(70_000, 1_000)
        assert (len(home.requests), [hop for _, _, hop in other.requests]) == (0, [False])
        assert other.copies == ["spare" if policy == "local-first-avoid-eviction" else None]
        # when: it has no room beyond the reserved bytes
        await cluster.announce(other, available_bytes=50)
        await until(lambda: any(m.available_bytes == 50 for m in client._members.workers))
        await reader.read(70_000, 1_000)
        assert len(home.requests) == (policy == "local-first-avoid-eviction")
        await reader.close()

    def change(o: ClientOptions) -> ClientOptions:
        local = replace(held_off(o), short_circuit_dirs=(tmp_path,), reserved_bytes=50)
        return replace(local, location_policy=policy)

    with_client(body, workers=3, change=change)


def test_round_robin_asks_every_worker_in_turn_and_lets_it_forward() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        for index in range(4):
            await reader.read(index * BLOCK, 1_000)
        assert sorted(len(w.requests) for w in cluster.workers) == [2, 2]
        assert not any(hop for w in cluster.workers for _, _, hop in w.requests)
        await reader.close()

    with_client(body, workers=2, change=lambda o: replace(held_off(o), location_policy="round-robin"))


@pytest.mark.parametrize(("policy", "copies"), [("local-first-avoid-eviction", True), ("local-first", False)])
def test_copies_in_spare_room_are_asked_for_where_the_policy_avoids_evictions(
    policy: LocationPolicy, copies: bool
) -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        await reader.read(0, 1_000)
        assert any("spare" in w.copies for w in cluster.workers) == copies
        await reader.close()

    with_client(body, workers=2, change=lambda o: replace(held_off(o), location_policy=policy))


def test_a_worker_that_comes_back_within_the_deadline_is_found_again() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        cluster.workers[0].fault = "overloaded"
        reader = await client.open("/a")
        reading = asyncio.ensure_future(reader.read(70_000, 1_000))
        await until(lambda: len(cluster.workers[0].requests) >= 2)
        cluster.workers[0].fault = "none"
        assert await reading == DATA[70_000:71_000]
        await reader.close()

    with_client(body)


def test_a_read_ends_at_its_deadline_whatever_the_workers_do() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        cluster.workers[0].fault = "stall"
        reader = await client.open("/a")
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await reader.read(0, 1_000)
        assert time.monotonic() - started < 2.0
        await reader.close()

    with_client(body, change=lambda o: replace(o, read_deadline_s=0.6))


def test_a_replaced_file_stays_stale_for_its_reader_until_a_new_lookup() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        await reader.read(0, 1_000)
        cluster.master.files["a"] = b"another version"
        with pytest.raises(StaleVersion):
            await reader.read(2 * BLOCK, 1_000)
        with pytest.raises(StaleVersion):
            await reader.read(0, 1_000)
        client.forget("/a")
        again = await client.open("/a")
        assert await again.read(0, 100) == b"another version"
        await reader.close()
        await again.close()

    with_client(body)


def test_an_open_file_goes_on_without_a_master() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        await reader.read(0, 1_000)
        await cluster.stop("master")
        assert await reader.read(2 * BLOCK, 1_000) == DATA[2 * BLOCK : 2 * BLOCK + 1_000]
        await reader.close()

    with_client(body)


def test_a_refused_ticket_is_fetched_anew_once() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        cluster.master.ticket_ttl_s = -120.0  # beyond the leeway: workers refuse it
        reader = await client.open("/a")
        with pytest.raises(Exception, match="expired"):
            await reader.read(BLOCK, 10)
        cluster.master.ticket_ttl_s = 3600.0
        assert await reader.read(BLOCK, 10) == DATA[BLOCK : BLOCK + 10]
        await reader.close()

    with_client(body)


def test_a_ticket_is_renewed_in_the_background_from_half_of_its_life() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        cluster.master.ticket_ttl_s = 0.2
        reader = await client.open("/a")
        await reader.read(BLOCK, 10)
        cluster.master.ticket_ttl_s = 3600.0

        async def read_until_renewed() -> None:
            offset = 0
            while cluster.master.calls["ticket"] == 1:
                offset = (offset + 3 * SEGMENT) % len(DATA)
                await reader.read(offset, 10)

        await asyncio.wait_for(read_until_renewed(), 3.0)
        await reader.close()

    with_client(body)


def write_block(folder: Path, data: bytes, index: int) -> str:
    layout = entry_of("a", data, block_size=BLOCK).layout
    assert layout is not None
    block_id = identity.block_id(layout.version_id, BLOCK, index)
    (folder / block_id[:2]).mkdir(exist_ok=True)
    (folder / block_id[:2] / f"{block_id}.blk").write_bytes(data[index * BLOCK : (index + 1) * BLOCK])
    return block_id


def local_cluster(
    folder: Path, body: Callable[[FakeCluster, Client], Awaitable[None]], *, telemetry: Telemetry | None = None
) -> None:
    nonce = "ab" * 16
    (folder / "nonce").write_text(nonce)

    async def announced(cluster: FakeCluster, client: Client) -> None:
        cluster.workers[0].tiers = (TierInfo(tier="MEM", capacity_bytes=1, nonce=nonce),)
        await cluster.announce(cluster.workers[0])
        await until(lambda: client._local.usable)
        await body(cluster, client)

    with_client(announced, change=lambda o: replace(o, short_circuit_dirs=(folder,)), telemetry=telemetry)


def test_a_block_on_this_host_is_read_from_its_file_and_reported_to_its_worker(tmp_path: Path) -> None:
    telemetry = quiet()

    async def body(cluster: FakeCluster, client: Client) -> None:
        block_id = write_block(tmp_path, DATA, 1)
        reader = await client.open("/a")
        assert await reader.read(BLOCK + 5, 1_000) == DATA[BLOCK + 5 : BLOCK + 1_005]
        assert cluster.workers[0].requests == []
        assert await reader.read(BLOCK - 10, 20) == DATA[BLOCK - 10 : BLOCK + 10]
        assert [index for index, _, _ in cluster.workers[0].requests] == [0]
        await until(lambda: len(cluster.workers[0].touches) > 0)
        await reader.close()
        await until(lambda: sum(t.read_bytes for r in cluster.workers[0].touches for t in r.touches) == 1_010)
        assert sum(t.opens for r in cluster.workers[0].touches for t in r.touches) == 1
        assert {t.block_id for r in cluster.workers[0].touches for t in r.touches} == {block_id}
        assert b'read_bytes_total{source="local"} 1010.0' in telemetry.metrics.render()

    local_cluster(tmp_path, body, telemetry=telemetry)


def test_an_open_block_keeps_its_bytes_after_it_was_evicted(tmp_path: Path) -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        block_id = write_block(tmp_path, DATA, 0)
        reader = await client.open("/a")
        assert reader.local_block(0) is not None
        (tmp_path / block_id[:2] / f"{block_id}.blk").unlink()
        assert await reader.read(0, 100) == DATA[:100]
        assert cluster.workers[0].requests == []
        await reader.close()
        assert len(client._local.open_blocks) == 0

    local_cluster(tmp_path, body)


def test_a_block_that_the_kernel_holds_counts_as_open_without_a_descriptor(tmp_path: Path) -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        small = DATA[:BLOCK]
        cluster.master.files["s"] = small
        layout = (await client.lookup("/s")).entry.layout
        assert layout is not None
        assert client.open_block(layout) is None
        assert client.is_home_here(layout)
        assert list(client.homes(layout, 9)) == [cluster.workers[0].name]
        assert client.blocks_here(layout, 9) == 0
        block_id = identity.block_id(layout.version_id, BLOCK, 0)
        (tmp_path / block_id[:2]).mkdir()
        (tmp_path / block_id[:2] / f"{block_id}.blk").write_bytes(small)
        assert client.blocks_here(layout, 9) == 1
        block = client.open_block(layout)
        assert block is not None
        assert os.pread(block.fd, 10, 5) == small[5:15]
        block.detach()
        block.again()
        assert (block.fd, len(client._local.open_blocks)) == (-1, 0)
        seen = cluster.workers[0].touches
        await until(lambda: sum(t.opens for r in seen for t in r.touches) == 2)
        # and it is reported again while it stays open, not after
        reports = len(seen)
        client._reports.gather(still_open=True)
        await until(lambda: len(seen) > reports)
        assert {t.block_id for r in seen for t in r.touches} == {block_id}
        block.close()
        client._reports.gather(still_open=True)
        assert len(client._reports) == 0

    local_cluster(tmp_path, body)


def test_a_folder_of_blocks_that_was_made_anew_is_found_again(tmp_path: Path) -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        layout = (await client.lookup("/a")).entry.layout
        assert layout is not None
        block_id = write_block(tmp_path, DATA, 0)
        assert client.blocks_here(layout, 1) == 1
        (tmp_path / block_id[:2] / f"{block_id}.blk").unlink()
        (tmp_path / block_id[:2]).rmdir()
        assert client.blocks_here(layout, 1) == 0
        write_block(tmp_path, DATA, 0)
        assert client.blocks_here(layout, 1) == 1

    local_cluster(tmp_path, body)


def test_readahead_that_is_on_its_way_is_given_without_a_copy_when_it_has_come() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        reader = await client.open("/a")
        assert await reader.arrived(2 * BLOCK, 100) is None  # not in sequence: nothing is on its way
        await reader.close()
        reader = await client.open("/a")
        for offset in range(0, len(DATA), SEGMENT // 2):
            length = min(SEGMENT // 2, len(DATA) - offset)
            views = await reader.arrived(offset, length)
            found = b"".join(views) if views is not None else await reader.read(offset, length)
            assert found == DATA[offset : offset + length], offset
        # a wait that is cut short leaves nothing held
        await reader.close()
        reader = await client.open("/a")
        task = asyncio.ensure_future(reader.arrived(0, 100))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await reader.close()

    with_client(body)


def test_what_a_listing_told_is_held_for_who_cannot_wait() -> None:
    async def body(cluster: FakeCluster, client: Client) -> None:
        assert client.held("/a") is None
        await client.list_page("/")
        found = client.held("/a")
        assert isinstance(found, LookupReply)
        assert found.entry.size == len(DATA)
        assert client.names_held > 0
        with pytest.raises(NotFound):
            await client.lookup("/none")
        assert isinstance(client.held("/none"), NotFound)

    with_client(body)


def test_symlinks_other_lengths_and_non_files_are_never_opened(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "tier", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()

    async def body(cluster: FakeCluster, client: Client) -> None:
        ids = [write_block(elsewhere, DATA, i) for i in range(4)]
        names = [folder / b[:2] / f"{b}.blk" for b in ids]
        for name in names[1:]:
            name.parent.mkdir(exist_ok=True)
        names[0].parent.symlink_to(elsewhere / ids[0][:2])
        names[1].symlink_to(elsewhere / ids[1][:2] / f"{ids[1]}.blk")
        names[2].write_bytes(b"short")
        names[3].mkdir()
        reader = await client.open("/a")
        assert [reader.local_block(i) for i in range(4)] == [None] * 4
        await reader.close()

    local_cluster(folder, body)


def test_a_directory_whose_nonce_no_worker_announced_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "nonce").write_text("cd" * 16)

    async def body(cluster: FakeCluster, client: Client) -> None:
        write_block(tmp_path, DATA, 0)
        reader = await client.open("/a")
        assert reader.local_block(0) is None
        await reader.close()

    with_client(body, change=lambda o: replace(o, short_circuit_dirs=(tmp_path,)))


def test_a_client_that_told_its_order_reports_what_it_reads_in_place_more_often() -> None:
    assert report_pause_s(1.0, has_hinted=True) == HINTED_TOUCH_S
    assert report_pause_s(0.01, has_hinted=True) == 0.01
    assert report_pause_s(1.0, has_hinted=False) == 1.0
