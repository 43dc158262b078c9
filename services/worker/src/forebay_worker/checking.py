"""Runs the health checks that operators bring, each in its own time, none in this process.

A check is a child process in a session of its own, or a GET. At its deadline it is killed with all it has started; its
output is read up to a limit; its environment has none of ours but where programs and homes are. What hangs, crashes or
prints garbage costs its own deadline and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from forebay.errors import ConfigError, Detail
from forebay.runtime import logs
from forebay_worker import plugin
from forebay_worker.checks import (
    ANSWER_BYTES_MAX,
    CheckSpec,
    Verdict,
    failed,
    judge_exit,
    judge_reply,
    parse_checks,
)

SETTING = "health_checks"
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
"""Variables that a check sees: none of them is a secret of the worker's."""

END_S = 1.0

LOG = logs.get("forebay_worker.checking")


@dataclass
class _State:
    """Of one check. ``at_s`` is when it last answered."""

    verdict: Verdict
    at_s: float | None = None
    runs: int = 0
    failures: int = 0


def load_checks(texts: Sequence[str]) -> tuple[CheckSpec, ...]:
    """What the setting names.

    Raises:
        ConfigError: an entry that cannot be read, a program that cannot be run, a function that is not there.
    """
    try:
        specs = parse_checks(tuple(texts))
    except ValueError as e:
        raise ConfigError(SETTING, str(e)) from e
    for spec in specs:
        if spec.kind == "exec" and not os.access(spec.target[0], os.X_OK):
            raise ConfigError(SETTING, f"{spec.target[0]} is no program that can be run")
        if spec.kind == "python" and not plugin.exists(spec.target[0]):
            raise ConfigError(SETTING, f"there is no {spec.target[0]!r}")
    return specs


class Checks:
    """All checks of a worker. ``score`` is the least of what they said last."""

    def __init__(self, specs: Sequence[CheckSpec], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._specs = tuple(specs)
        self._clock = clock
        self._states = {spec.name: _State(failed(spec, "has not answered yet")) for spec in specs}

    def score(self) -> float:
        """From 0 to 1; 1 without checks."""
        return min((state.verdict.score for state in self._states.values()), default=1.0)

    def scores(self) -> dict[tuple[str, ...], float]:
        """By check, for the metrics."""
        return {(name,): state.verdict.score for name, state in self._states.items()}

    def status(self) -> dict[str, dict[str, Detail]]:
        """For ``/v1/status``."""
        now = self._clock()
        return {
            f"health {name}": {
                "score": state.verdict.score,
                "reason": state.verdict.reason,
                "failed": state.verdict.failed,
                "age_s": None if state.at_s is None else round(now - state.at_s, 1),
                "runs": state.runs,
                "failures": state.failures,
            }
            for name, state in self._states.items()
        }

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for spec in self._specs:
                group.create_task(self._keep(spec), name=f"check-{spec.name}")

    async def _keep(self, spec: CheckSpec) -> None:
        while True:
            began_s = self._clock()
            self._take(spec, await once(spec))
            await asyncio.sleep(max(0.0, spec.period_s - (self._clock() - began_s)))

    def _take(self, spec: CheckSpec, verdict: Verdict) -> None:
        state = self._states[spec.name]
        before, state.verdict, state.at_s = state.verdict, verdict, self._clock()
        if (before.score, before.failed) != (verdict.score, verdict.failed) or not state.runs:
            LOG.warning(
                "health_check", check=spec.name, score=verdict.score, failed=verdict.failed, reason=verdict.reason
            )
        state.runs += 1
        state.failures += verdict.failed


async def once(spec: CheckSpec) -> Verdict:
    """One run, within its deadline."""
    return await (_get(spec) if spec.kind == "url" else _run(spec))


async def _run(spec: CheckSpec) -> Verdict:
    command = [sys.executable, "-m", "forebay_worker.plugin", *spec.target] if spec.kind == "python" else spec.target
    null = asyncio.subprocess.DEVNULL
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=null,
            stdout=asyncio.subprocess.PIPE,
            stderr=null,
            start_new_session=True,
            env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
        )
    except OSError as e:
        return failed(spec, f"cannot be run: {e.strerror}")
    try:
        async with asyncio.timeout(spec.deadline_s):
            output = await _read(child)
            if len(output) > ANSWER_BYTES_MAX:
                return judge_exit(spec, 0, output)
            return judge_exit(spec, await child.wait(), output)
    except TimeoutError:
        return failed(spec, f"did not answer within {spec.deadline_s:g} s")
    finally:
        await _end(child)


async def _read(child: asyncio.subprocess.Process) -> bytes:
    """Its output, and one byte more than it may have at most."""
    assert child.stdout is not None
    output = b""
    while len(output) <= ANSWER_BYTES_MAX and (part := await child.stdout.read(ANSWER_BYTES_MAX + 1 - len(output))):
        output += part
    return output


async def _end(child: asyncio.subprocess.Process) -> None:
    """Kills what is left of its session. One that even so does not end (it waits for a dead disk) is left to the loop,
    which takes notice when it does."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_S):
            await child.wait()


async def _get(spec: CheckSpec) -> Verdict:
    timeout = aiohttp.ClientTimeout(total=spec.deadline_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(spec.target[0], allow_redirects=False) as reply,
        ):
            body = b""
            async for part in reply.content.iter_chunked(ANSWER_BYTES_MAX):
                body += part
                if len(body) > ANSWER_BYTES_MAX:
                    break
            return judge_reply(spec, reply.status, body)
    except TimeoutError:
        return failed(spec, f"did not answer within {spec.deadline_s:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as e:
        return failed(spec, f"cannot be asked: {type(e).__name__}")
