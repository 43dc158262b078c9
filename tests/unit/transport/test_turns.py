"""Bulk moves in turns of the event loop, and RPCs go in between: counted in pieces and turns, not in seconds."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from forebay.runtime import Deadline
from forebay.telemetry import quiet
from forebay.testing import run
from forebay.testing.transport import pair
from forebay.transport import HttpClient, Limits
from forebay.transport.turns import Arrivals, Turns

STREAMS = 24
RPCS = 60
BULK = 16 << 20


class Stopped:
    def __init__(self) -> None:
        self.resumed = 0

    def resume_reading(self) -> None:
        self.resumed += 1


def test_no_more_streams_write_in_one_turn_than_may_and_all_of_them_come_round() -> None:
    async def main() -> None:
        turns, order, most = Turns(2), [], 0

        async def stream(number: int) -> None:
            for _ in range(3):
                if not turns.try_take():
                    await turns.take()
                order.append(number)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(stream(number)) for number in range(7)]
            while not all(task.done() for task in tasks):
                before = turns.taken
                await asyncio.sleep(0)
                most = max(most, turns.taken - before)
        assert most <= 4  # this task may run before the turn's end or after it: two turns at most
        assert sorted(order) == sorted([*range(7)] * 3)
        assert set(order[:10]) == set(range(7))  # nobody has a second turn long before the last has his first

    run(main())


def test_who_is_cancelled_in_the_queue_takes_no_turn_from_others() -> None:
    async def main() -> None:
        turns = Turns(1)
        assert turns.try_take()
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(turns.take())
            staying = group.create_task(turns.take())
            await asyncio.sleep(0)
            leaving.cancel()
            async with asyncio.timeout(5):
                await staying
        assert turns.taken == 2

    run(main())


def test_connections_that_bring_too_much_in_one_turn_go_on_in_the_next_ones() -> None:
    async def main() -> None:
        arrivals, connections = Arrivals(100, 2), [Stopped() for _ in range(5)]
        assert arrivals.came(60)
        for connection in connections:
            assert not arrivals.came(60)
            arrivals.stopped(connection)
        seen = []
        for _ in range(5):
            await asyncio.sleep(0)
            seen.append(sum(connection.resumed for connection in connections))
        assert seen == [2, 4, 5, 5, 5]
        assert len(arrivals) == 0
        assert arrivals.came(60)

    run(main())


async def pieces_beside_an_rpc(limits: Limits) -> list[int]:
    """How many pieces of bulk the server wrote while each of some RPCs was under way."""
    async with AsyncExitStack() as stack:
        p = await stack.enter_async_context(pair(limits=limits))
        readers = [HttpClient(quiet(), limits=limits) for _ in range(STREAMS)]
        for reader in readers:
            stack.push_async_callback(reader.close)
        shared = p.server._shared
        assert shared is not None
        stop, found = asyncio.Event(), []

        async def bulk(reader: HttpClient) -> None:
            buffer = memoryview(bytearray(BULK))
            while not stop.is_set():
                await reader.read_into(p.peer, f"/bytes/{BULK}", buffer, deadline=Deadline.after(60))

        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(bulk(reader))
            while shared.turns.taken < STREAMS * 2:
                await asyncio.sleep(0)
            for _ in range(RPCS):
                before = shared.turns.taken
                await p.client.fetch(p.peer, "GET", "/bytes/10", deadline=Deadline.after(60))
                found.append(shared.turns.taken - before)
            stop.set()
        return sorted(found)


def test_an_rpc_beside_many_bulk_streams_waits_for_a_few_pieces_of_them() -> None:
    async def main() -> None:
        bounded = await pieces_beside_an_rpc(Limits())
        unbounded = await pieces_beside_an_rpc(Limits(bulk_streams_max=10_000, bulk_arrival_bytes_max=1 << 40))
        p99 = len(bounded) - 1 - len(bounded) // 100
        assert bounded[p99] <= 24
        assert unbounded[len(unbounded) // 2] > bounded[p99]

    run(main())
