"""The coverage-guided fuzzer on the engine, in short: it starts from good conversations, and finds nothing.

For longer, and to keep what it finds: ``python -m tests.fuzz.run http2_server -max_total_time=600 some/folder``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay.testing.http2 import headers, server_engine
from forebay.transport import frames
from forebay.transport.frames import ProtocolError
from tests.fuzz import transport
from tests.fuzz.short import finds_nothing, needs_atheris


@pytest.mark.parametrize("target", sorted(transport.TARGETS))
def test_every_good_conversation_is_taken(target: str) -> None:
    for seed in transport.seeds()[target]:
        transport.TARGETS[target]()(seed)


def test_good_conversations_reach_the_application() -> None:
    engine, owner = server_engine(transport.LIMITS)
    for deed, wire in transport.steps(transport.seeds()["http2_server"][0]):
        assert not deed
        engine.feed(wire)
    assert owner.names()[-2:] == ["head", "end"]
    assert bytes(owner.bodies[1]) == b"x" * 300


def test_a_sum_that_does_not_hold_is_found() -> None:
    # given an engine that forgets what it has received
    engine, _ = server_engine(transport.LIMITS)
    engine.receive_window.held += 1
    # then the target says so
    with pytest.raises(AssertionError):
        transport.converse(engine, transport.reads(frames.settings(()), headers(1)))


def test_a_broken_rule_ends_a_conversation_with_goaway() -> None:
    engine, _ = server_engine(transport.LIMITS)
    with pytest.raises(ProtocolError):
        engine.feed(headers(1))
    transport.http2_server(transport.reads(headers(1)))


@needs_atheris
@pytest.mark.parametrize("target", sorted(transport.TARGETS))
def test_the_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    finds_nothing(target, transport.seeds()[target], tmp_path)
