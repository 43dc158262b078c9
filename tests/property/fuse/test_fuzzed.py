"""The coverage-guided fuzzer in short: it starts from one good example of every request, and finds nothing.

For longer, and to keep what it finds: ``python -m tests.fuzz.run session -max_total_time=600 some/folder``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forebay.contracts import LookupReply
from tests.fuzz import targets
from tests.fuzz.short import finds_nothing, needs_atheris
from tests.unit.fuse.doubles import FakeClient


@pytest.fixture
def session() -> Iterator[targets.Session]:
    """A target, and the end of its loop."""
    target = targets.Session()
    yield target
    target.close()


def test_every_example_is_taken(session: targets.Session) -> None:
    for data in targets.seeds()["protocol"]:
        targets.protocol(data)
    for data in targets.seeds()["session"]:
        session(data)


def test_an_exception_of_ours_in_a_handler_is_found() -> None:
    # given a client with a bug, which the gateway would answer with EIO and survive
    class Broken(FakeClient):
        async def lookup(self, path: str) -> LookupReply:
            raise ValueError("a bug")

    target = targets.Session(lambda local: Broken(targets.FILES, is_local=local))
    try:
        with pytest.raises(AssertionError, match="a bug"):
            target(targets.seeds()["session"][0])
    finally:
        target.close()


@needs_atheris
@pytest.mark.parametrize("target", sorted(targets.TARGETS))
def test_the_fuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    finds_nothing(target, targets.seeds()[target], tmp_path)
