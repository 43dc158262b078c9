"""Reading through the home: checked answers, and past it when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import google_crc32c
import pytest

from forebay.contracts.blocks import ByteRange, format_content_range, format_crcs, parse_range
from forebay.errors import ForebayError, NotCached, PeerMisbehaved, PeerUnavailable, PermissionDenied, StaleVersion
from forebay.runtime import Deadline
from forebay.testing import run
from forebay.testing.ufs import MemoryUfs
from forebay.ufs import Ufs
from forebay_worker.extents import Geometry
from forebay_worker.peers import PeerCall, PeerSource, check_answer
from forebay_worker.sources import UfsSource
from tests.unit.worker.kit import MIB, content

DATA = content(9 * MIB)
HOME = PeerCall("home", "home:1", "/v1/blocks/x", "ticket", "CACHE")
PROBE = PeerCall("other", "other:1", "/v1/blocks/x", "ticket", "CACHE", only_if_cached=True)


@dataclass(frozen=True)
class NamedBlock:
    block_id: str
    geometry: Geometry


@dataclass
class Notes:
    """What was heard of peers."""

    failures: list[str] = field(default_factory=list)
    without: list[tuple[str, str]] = field(default_factory=list)

    def failed(self, member_id: str) -> None:
        self.failures.append(member_id)

    def lacks(self, member_id: str, block_id: str) -> None:
        self.without.append((member_id, block_id))


@dataclass
class Answer:
    headers: Mapping[str, str]
    length: int


@dataclass
class FakePeers:
    """Serve ``DATA``; answers number ``fails_at`` and later of a peer in ``errors`` are that error."""

    errors: dict[str, ForebayError] = field(default_factory=dict)
    fails_at: int = 0
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    async def read_into(
        self, peer: str, path: str, buffer: memoryview, *, deadline: Deadline, headers: Mapping[str, str] | None = None
    ) -> Answer:
        assert headers is not None
        self.asked.append((peer, headers))
        if peer in self.errors and sum(name == peer for name, _ in self.asked) > self.fails_at:
            raise self.errors[peer]
        part = parse_range(headers["range"], len(DATA))
        buffer[:] = DATA[part.start : part.stop]
        return Answer({"content-range": format_content_range(part, len(DATA))}, part.length)


def source(peers: FakePeers, notes: Notes, *calls: PeerCall) -> PeerSource:
    ufs = MemoryUfs()
    file = ufs.put("a", DATA)

    async def opened() -> Ufs:
        return ufs

    behind = UfsSource(opened, "a", file.size, file.fingerprint, 0)
    block = NamedBlock("x", Geometry(len(DATA)))
    return PeerSource(peers, calls or (HOME,), block, behind, notes, buffers=asyncio.Semaphore(1))


async def everything(origin: PeerSource, start: int = 0, stop: int = len(DATA)) -> bytes:
    return b"".join([bytes(piece) async for piece in origin.read(start, stop - start)])


def test_the_home_is_asked_extent_by_extent_and_told_that_it_is_a_hop() -> None:
    peers, notes = FakePeers(), Notes()
    assert run(everything(source(peers, notes), 5, 9 * MIB - 5)) == DATA[5:-5]
    assert [headers["range"] for _, headers in peers.asked] == [
        f"bytes=5-{4 * MIB - 1}",
        f"bytes={4 * MIB}-{8 * MIB - 1}",
        f"bytes={8 * MIB}-{9 * MIB - 6}",
    ]
    assert {headers["forebay-hop"] for _, headers in peers.asked} == {"1"}
    assert not any("cache-control" in headers for _, headers in peers.asked)
    assert notes == Notes()


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_home_that_fails_is_left_for_the_under_store_where_it_stopped(fails_at: int) -> None:
    peers, notes = FakePeers({"home:1": PeerUnavailable("gone")}, fails_at), Notes()
    origin = source(peers, notes)
    assert origin.name == "peer"
    assert run(everything(origin)) == DATA
    assert (origin.name, notes.failures) == ("ufs", ["home"])
    assert run(everything(origin)) == DATA
    assert len(peers.asked) == fails_at + 1


def test_what_the_home_says_about_the_file_is_raised() -> None:
    notes = Notes()
    with pytest.raises(StaleVersion):
        run(everything(source(FakePeers({"home:1": StaleVersion("replaced")}), notes)))
    assert notes.failures == []


def test_a_probe_says_so_and_what_it_holds_is_not_asked_of_the_under_store() -> None:
    peers, notes = FakePeers(), Notes()
    origin = source(peers, notes, PROBE)
    assert origin.name == "ufs"  # nobody knows yet
    assert run(everything(origin)) == DATA
    assert (origin.name, origin.served_by) == ("peer", "other")
    assert {headers["cache-control"] for _, headers in peers.asked} == {"only-if-cached"}


@pytest.mark.parametrize(
    "error", [NotCached("no"), StaleVersion("replaced"), PermissionDenied("no"), PeerMisbehaved("what?")]
)
def test_a_probe_that_does_not_help_is_asked_once_whatever_it_says(error: ForebayError) -> None:
    peers, notes = FakePeers({"other:1": error}), Notes()
    origin = source(peers, notes, PROBE, replace(PROBE, member_id="third", address="third:1"))
    assert run(everything(origin)) == DATA
    assert [peer for peer, _ in peers.asked] == ["other:1", "third:1", "third:1", "third:1"]
    assert notes.without == ([("other", "x")] if isinstance(error, NotCached) else [])
    assert notes.failures == (["other"] if isinstance(error, PeerMisbehaved) else [])


def test_several_streams_may_give_up_the_same_peer() -> None:
    async def body() -> None:
        peers, notes = FakePeers({"other:1": NotCached("no")}), Notes()
        origin = source(peers, notes, PROBE)
        parts = await asyncio.gather(*(everything(origin, at, at + MIB) for at in range(0, 9 * MIB, MIB)))
        assert b"".join(parts) == DATA

    run(body())


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
