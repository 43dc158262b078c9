"""Reading through the home: checked answers, and past it when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import google_crc32c
import pytest

from forebay.contracts.blocks import ByteRange, format_content_range, format_crcs, parse_range
from forebay.errors import ForebayError, PeerMisbehaved, PeerUnavailable, StaleVersion
from forebay.runtime import Deadline
from forebay.testing import run
from forebay.testing.ufs import MemoryUfs
from forebay.ufs import Ufs
from forebay_worker.extents import Geometry
from forebay_worker.peers import HomeCall, HomeSource, check_answer
from forebay_worker.sources import UfsSource
from tests.unit.worker.kit import MIB, content

DATA = content(9 * MIB)
CALL = HomeCall("home:1", "/v1/blocks/x", "ticket", "CACHE")


@dataclass
class Answer:
    headers: Mapping[str, str]
    length: int


@dataclass
class FakeHome:
    """Serves ``DATA``; answers number ``fails_at`` and later are ``error``."""

    error: ForebayError | None = None
    fails_at: int = 0
    asked: list[Mapping[str, str]] = field(default_factory=list)

    async def read_into(
        self, peer: str, path: str, buffer: memoryview, *, deadline: Deadline, headers: Mapping[str, str] | None = None
    ) -> Answer:
        assert headers is not None
        self.asked.append(headers)
        if self.error is not None and len(self.asked) > self.fails_at:
            raise self.error
        part = parse_range(headers["range"], len(DATA))
        buffer[:] = DATA[part.start : part.stop]
        return Answer({"content-range": format_content_range(part, len(DATA))}, part.length)


def source(home: FakeHome, failures: list[str]) -> HomeSource:
    ufs = MemoryUfs()
    file = ufs.put("a", DATA)

    async def opened() -> Ufs:
        return ufs

    behind = UfsSource(opened, "a", file.size, file.fingerprint, 0)
    return HomeSource(
        home, CALL, Geometry(len(DATA)), behind, lambda: failures.append("home"), buffers=asyncio.Semaphore(1)
    )


async def everything(origin: HomeSource, start: int = 0, stop: int = len(DATA)) -> bytes:
    return b"".join([bytes(piece) async for piece in origin.read(start, stop - start)])


def test_the_home_is_asked_extent_by_extent_and_told_that_it_is_a_hop() -> None:
    home, failures = FakeHome(), list[str]()
    assert run(everything(source(home, failures), 5, 9 * MIB - 5)) == DATA[5:-5]
    assert [headers["range"] for headers in home.asked] == [
        f"bytes=5-{4 * MIB - 1}",
        f"bytes={4 * MIB}-{8 * MIB - 1}",
        f"bytes={8 * MIB}-{9 * MIB - 6}",
    ]
    assert {headers["forebay-hop"] for headers in home.asked} == {"1"}
    assert failures == []


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_home_that_fails_is_left_for_the_under_store_where_it_stopped(fails_at: int) -> None:
    home, failures = FakeHome(PeerUnavailable("gone"), fails_at), list[str]()
    origin = source(home, failures)
    assert origin.name == "peer"
    assert run(everything(origin)) == DATA
    assert (origin.name, failures) == ("ufs", ["home"])
    assert run(everything(origin)) == DATA
    assert len(home.asked) == fails_at + 1


def test_what_the_home_says_about_the_file_is_raised() -> None:
    failures = list[str]()
    with pytest.raises(StaleVersion):
        run(everything(source(FakeHome(StaleVersion("replaced")), failures)))
    assert failures == []


def test_an_answer_is_checked_for_range_length_and_checksums() -> None:
    geometry, part = Geometry(9 * MIB), ByteRange(8 * MIB, 9 * MIB)
    body = memoryview(bytearray(DATA[8 * MIB :]))
    good = {
        "content-range": format_content_range(part, 9 * MIB),
        "forebay-crc32c": format_crcs([google_crc32c.value(DATA[8 * MIB :])]),
    }
    check_answer(good, MIB, part, geometry, body)
    for wrong, length in (
        (good | {"content-range": format_content_range(part, 10 * MIB)}, MIB),
        (good | {"content-range": format_content_range(ByteRange(0, MIB), 9 * MIB)}, MIB),
        ({}, MIB),
        (good, MIB - 1),
        (good | {"forebay-crc32c": "00000000"}, MIB),
        (good | {"forebay-crc32c": good["forebay-crc32c"] + ",00000000"}, MIB),
    ):
        with pytest.raises(PeerMisbehaved):
            check_answer(wrong, length, part, geometry, body)
