"""Health checks that operators bring: what the setting says, and real programs, URLs and functions that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import ConfigError
from forebay.testing import run
from forebay_worker.checking import Checks, load_checks, once
from forebay_worker.checks import (
    ANSWER_BYTES_MAX,
    CheckSpec,
    Verdict,
    judge_exit,
    judge_reply,
    judge_text,
    parse_check,
    parse_checks,
)
from forebay_worker.plugin import line_of

SPEC = CheckSpec("x", "exec", ("/x",))
OPEN = CheckSpec("x", "exec", ("/x",), fails_open=True)
SLOW_S = 20.0
"""Deadline of a check that is expected to answer, on a machine with much to do."""


def program(folder: Path, body: str) -> str:
    path = folder / "check"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def verdict_of(folder: Path, body: str, *, deadline_s: float = SLOW_S, fail: str = "closed") -> Verdict:
    return run(once(parse_check(f"exec:{program(folder, body)};period=60;deadline={deadline_s};fail={fail}")))


# -- the setting and the answers


def test_an_entry_says_what_to_run_and_how() -> None:
    spec = parse_check("exec:/bin/check 'a b' c; period=30; deadline=1.5; fail=open")

    assert (spec.kind, spec.target) == ("exec", ("/bin/check", "a b", "c"))
    assert (spec.period_s, spec.deadline_s, spec.fails_open) == (30.0, 1.5, True)
    assert parse_check("http://127.0.0.1:1/x").kind == "url"
    assert parse_check("entry:disk").target == ("disk",)
    assert parse_check("python:a.b:c").target == ("a.b:c",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "check",
        "exec:relative",
        "exec:",
        "exec:/a 'b",
        "http:nothing",
        "ftp://x/",
        "entry:",
        "python:module",
        "exec:/a;period=0",
        "exec:/a;period=nan",
        "exec:/a;period=x",
        "exec:/a;fail=maybe",
        "exec:/a;every=3",
        "exec:/a;period=1;deadline=2",
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_check(text)


def test_checks_are_told_apart_and_bounded() -> None:
    with pytest.raises(ValueError, match="twice"):
        parse_checks(("exec:/a", "exec:/a;period=5"))
    with pytest.raises(ValueError, match="more than"):
        parse_checks(tuple(f"exec:/{number}" for number in range(17)))


def test_what_is_not_there_is_refused_at_start(tmp_path: Path) -> None:
    for wrong in (f"exec:{tmp_path}/nothing", "entry:no-such-entry", "python:no_such_module:f", "nonsense"):
        with pytest.raises(ConfigError, match="health_checks"):
            load_checks([wrong])
    assert load_checks(["python:os:getpid"])[0].target == ("os:getpid",)


@given(st.binary(max_size=2 * ANSWER_BYTES_MAX), st.booleans())
def test_whatever_is_said_gives_a_score_and_a_printable_reason(output: bytes, is_open: bool) -> None:
    spec = OPEN if is_open else SPEC

    verdict = judge_text(spec, output)

    assert 0.0 <= verdict.score <= 1.0
    assert verdict.reason.isprintable()
    assert not verdict.failed or verdict.score == float(is_open)


@pytest.mark.parametrize(
    ("output", "score", "reason"),
    [(b"", 1.0, ""), (b"0.25 the disk is slow\nmore", 0.25, "the disk is slow"), (b"0", 0.0, ""), (b" 1.0 ", 1.0, "")],
)
def test_an_answer_is_a_score_and_a_reason(output: bytes, score: float, reason: str) -> None:
    assert judge_text(SPEC, output) == Verdict(score, reason)


@pytest.mark.parametrize("output", [b"ok", b"nan", b"inf", b"1.5", b"-1", b"\xff\xfe", b"0.5reason", b"{}"])
def test_garbage_counts_as_configured(output: bytes) -> None:
    assert (judge_text(SPEC, output).score, judge_text(OPEN, output).score) == (0.0, 1.0)
    assert judge_text(SPEC, output).failed


def test_a_crash_counts_as_configured_and_a_bad_status_of_a_url_is_an_answer() -> None:
    assert judge_exit(OPEN, -11, b"0.5").reason == "was killed by signal 11"
    assert (judge_exit(SPEC, 3, b"1").score, judge_exit(OPEN, 3, b"0").score) == (0.0, 1.0)
    assert judge_reply(OPEN, 503, b"1") == Verdict(0.0, "status 503")
    assert judge_reply(SPEC, 200, b"0.5 x") == Verdict(0.5, "x")


@pytest.mark.parametrize(
    ("answer", "line"), [(True, "1.0"), (0.5, "0.5"), ((0.25, "why"), "0.25 why"), ("well", "'well'"), (None, "None")]
)
def test_what_a_function_returns_becomes_a_line(answer: object, line: str) -> None:
    assert line_of(answer) == line


# -- real programs


def test_a_program_answers_and_sees_no_secret_of_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")

    verdict = verdict_of(tmp_path, 'echo "0.5 secret=$AWS_SECRET_ACCESS_KEY path=${PATH:+there}"')

    assert verdict == Verdict(0.5, "secret= path=there")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("exit 7", "ended with status 7"),
        ("kill -SEGV $$", "was killed by signal 11"),
        ("echo fine", "said 'fine', which is no score from 0 to 1"),
        ("cat /dev/zero", f"said more than {ANSWER_BYTES_MAX} bytes"),
    ],
)
def test_a_program_that_crashes_or_prints_garbage_has_failed(tmp_path: Path, body: str, reason: str) -> None:
    assert verdict_of(tmp_path, body) == Verdict(0.0, reason, failed=True)
    assert verdict_of(tmp_path, body, fail="open") == Verdict(1.0, reason, failed=True)


def test_a_program_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    verdict = verdict_of(tmp_path, f"trap '' TERM; sleep 600 & echo $! $$ > {pids}; wait", deadline_s=1.0)

    assert verdict == Verdict(0.0, "did not answer within 1 s", failed=True)
    until(lambda: not any(is_running(int(pid)) for pid in pids.read_text().split()))


def test_a_program_that_closes_its_output_and_goes_on_is_killed_too(tmp_path: Path) -> None:
    verdict = verdict_of(tmp_path, "echo 1; exec >&-; sleep 600", deadline_s=1.0)

    assert verdict.failed


def test_a_program_that_went_away_has_failed(tmp_path: Path) -> None:
    spec = parse_check(f"exec:{tmp_path}/gone")

    assert run(once(spec)).reason == "cannot be run: No such file or directory"


def test_a_function_runs_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_check.py").write_text(
        "import os\ndef well():\n    print('noise')\n    return 0.5, f'pid {os.getpid()}'\n"
        "def dies():\n    os._exit(9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    well = run(once(parse_check(f"python:own_check:well;period=60;deadline={SLOW_S}")))
    dies = run(once(parse_check(f"python:own_check:dies;period=60;deadline={SLOW_S}")))

    assert well.score == 0.5
    assert well.reason != f"pid {os.getpid()}"
    assert dies == Verdict(0.0, "ended with status 9", failed=True)


def test_an_entry_point_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site_check-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: site-check\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[forebay.health]\nsite = site_check:score\n")
    (tmp_path / "site_check.py").write_text("def score():\n    return 0.75\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    (spec,) = load_checks([f"entry:site;period=60;deadline={SLOW_S}"])

    assert run(once(spec)) == Verdict(0.75)


# -- URLs


class Answers(BaseHTTPRequestHandler):
    """``/half``, ``/flood``, ``/silent``; 404 otherwise."""

    ends = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200 if self.path in ("/half", "/flood", "/silent") else 404)
        if self.path == "/silent":
            self.ends.wait(60)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"0.5 hot")
            while self.path == "/flood":
                self.wfile.write(b"x" * 4096)

    def log_message(self, *_: object) -> None:
        """Silent."""


def test_a_url_is_asked_and_one_that_is_silent_or_floods_has_failed() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base, free = f"http://127.0.0.1:{server.server_port}", f"deadline={SLOW_S};period=60"
        texts = (f"half;{free}", f"flood;{free}", f"nothing;{free}", "silent;deadline=0.3")
        half, flood, nothing, silent = (run(once(parse_check(f"{base}/{text}"))) for text in texts)
        Answers.ends.set()
        server.shutdown()

    assert half == Verdict(0.5, "hot")
    assert flood.reason == f"said more than {ANSWER_BYTES_MAX} bytes"
    assert nothing == Verdict(0.0, "status 404")
    assert silent.reason == "did not answer within 0.3 s"
    assert run(once(parse_check("http://127.0.0.1:1/x"))).failed


# -- all of them


def test_the_least_score_counts_and_a_hanging_check_holds_up_no_other(tmp_path: Path) -> None:
    counter = tmp_path / "count"
    quick = program(tmp_path, f"echo x >> {counter}; echo 0.5 busy")
    hangs = tmp_path / "hangs"
    hangs.write_text("#!/bin/sh\nsleep 600\n")
    hangs.chmod(0o755)

    async def main() -> Checks:
        checks = Checks(
            load_checks([f"exec:{quick};period=0.05;deadline=0.05", f"exec:{hangs};period=300;deadline=300;fail=open"])
        )
        assert checks.score() == 0.0
        task = asyncio.create_task(checks.run())
        try:
            async with asyncio.timeout(60):
                while not counter.exists() or counter.read_text().count("x") < 5:
                    await asyncio.sleep(0.02)
        finally:
            task.cancel()
            await asyncio.wait([task])
        return checks

    checks = run(main())

    status = checks.status()
    assert status[f"health exec:{hangs}"]["reason"] == "has not answered yet"
    runs = status[f"health exec:{quick}"]["runs"]
    assert isinstance(runs, int)
    assert runs >= 4


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
