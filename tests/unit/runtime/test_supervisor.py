"""The supervisor owns its tasks: none outlives it, none fails unseen."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from forebay.errors import ConfigError, NotFound, Overloaded
from forebay.runtime import Supervisor, stop_event
from forebay.runtime import run as run_service
from forebay.testing import run


def test_tasks_are_cancelled_and_awaited_at_the_end() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("work")

    async def main() -> int:
        async with Supervisor() as supervisor:
            supervisor.spawn("work", work())
            await asyncio.sleep(0)
        return len(supervisor)

    assert run(main()) == 0
    assert ended == ["work"]


def test_a_task_that_fails_stops_the_service_with_its_own_error() -> None:
    ended: list[str] = []

    async def fail() -> None:
        raise NotFound("gone")

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    async def main() -> None:
        async with Supervisor() as supervisor:
            supervisor.spawn("work", work())
            supervisor.spawn("fail", fail())
            await asyncio.Event().wait()

    with pytest.raises(NotFound, match="gone"):
        run(main())
    assert ended == ["work"]


def test_an_error_of_the_body_comes_out_unchanged() -> None:
    async def main() -> None:
        async with Supervisor() as supervisor:
            supervisor.spawn("work", asyncio.sleep(100))
            raise NotFound("body")

    with pytest.raises(NotFound, match="body"):
        run(main())


def test_a_task_that_ends_is_forgotten() -> None:
    async def main() -> int:
        async with Supervisor() as supervisor:
            supervisor.spawn("short", asyncio.sleep(0))
            while len(supervisor):
                await asyncio.sleep(0)
            return len(supervisor)

    assert run(main()) == 0


def test_more_tasks_than_the_limit_are_refused() -> None:
    async def main() -> None:
        async with Supervisor(tasks_max=1) as supervisor:
            supervisor.spawn("one", asyncio.sleep(100))
            supervisor.spawn("two", asyncio.sleep(100))

    with pytest.raises(Overloaded):
        run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_stop_event(number: signal.Signals) -> None:
    async def main() -> bool:
        stop = stop_event()
        os.kill(os.getpid(), number)
        return await stop.wait()

    assert run(main())


def test_a_setting_that_cannot_work_exits_with_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> int:
        raise ConfigError("--port", "8080 is taken")

    assert run_service(main) == 2
    assert capsys.readouterr().err == "error: --port: 8080 is taken\n"


def test_an_error_of_ours_exits_with_1_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> int:
        raise NotFound("no such mount")

    assert run_service(main) == 1
    assert capsys.readouterr().err == "error: not_found: no such mount\n"


def test_an_error_from_a_task_exits_as_if_it_came_from_the_body(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise ConfigError("--tier-dirs", "not writable")

    async def main() -> int:
        async with Supervisor() as supervisor:
            supervisor.spawn("tiers", fail())
            await asyncio.Event().wait()
        return 0

    assert run_service(main) == 2
    assert capsys.readouterr().err.endswith("error: --tier-dirs: not writable\n")


def test_a_result_is_the_exit_code() -> None:
    async def main() -> int:
        return 3

    assert run_service(main) == 3
