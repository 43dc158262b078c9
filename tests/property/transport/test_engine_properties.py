"""Whatever the peer sends and however it is cut: a protocol error or a right answer, and sums that hold."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.errors import Overloaded
from forebay.testing.http2 import (
    GET,
    POST,
    client_engine,
    data,
    headers,
    join,
    sent,
    server_engine,
)
from forebay.transport import frames
from forebay.transport.frames import ProtocolError, frame, rst_stream, window_update
from forebay.transport.frames import settings as settings_frame
from forebay.transport.gate import Gate
from forebay.transport.limits import Limits

HELLO = settings_frame(())

stream_ids = st.integers(0, 12)
payloads = st.binary(max_size=40)
raw_frames = st.builds(
    frame,
    st.one_of(st.integers(0, 9), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D]), st.integers(0, 255)),
    st.one_of(stream_ids, st.integers(0, (1 << 31) - 1)),
    payloads,
)
likely_frames = st.one_of(
    st.builds(headers, stream_ids, st.sampled_from([GET, POST, ((":status", "200"),)]), end=st.booleans()),
    st.builds(data, stream_ids, st.binary(max_size=3000), end=st.booleans()),
    st.builds(rst_stream, stream_ids, st.integers(0, 20)),
    st.builds(window_update, stream_ids, st.integers(0, (1 << 31) - 1)),
    st.builds(lambda size: settings_frame([(frames.INITIAL_WINDOW_SIZE, size)]), st.integers(0, 1 << 31)),
    st.just(frames.SETTINGS_ACK),
    st.just(frame(frames.PING, 0, 0, b"12345678")),
    st.builds(frames.goaway, stream_ids, st.integers(0, 20)),
    raw_frames,
)
conversations = st.lists(likely_frames, max_size=30)


def cut(wire: bytes, rng: random.Random) -> list[bytes]:
    parts, position = [], 0
    while position < len(wire):
        size = rng.choice((1, 2, 5, 9, 10, 50, 1000, 100_000))
        parts.append(wire[position : position + size])
        position += size
    return parts


def hear(wire: bytes, parts: list[bytes]) -> tuple[object, ...]:
    """What a server makes of ``parts``: events, bodies, answer, error."""
    engine, owner = server_engine()
    owner.targets = {1: memoryview(bytearray(1 << 20))}
    error = None
    try:
        for part in parts:
            engine.feed(part)
    except ProtocolError as e:
        error = (e.error_code, e.message)
    else:
        engine.validate()
    heard = [event for event in owner.heard if event[0] != "window"]
    return heard, {k: bytes(v) for k, v in owner.bodies.items()} if error is None else None, sent(engine), error


@given(conversations, st.integers(0, 1 << 32))
def test_how_the_bytes_are_cut_changes_nothing(conversation: list[bytes], seed: int) -> None:
    wire = HELLO + b"".join(conversation)
    assert hear(wire, [wire]) == hear(wire, cut(wire, random.Random(seed)))


@given(st.binary(max_size=2000), st.booleans())
def test_noise_ends_in_a_protocol_error_or_in_nothing(noise: bytes, is_greeted: bool) -> None:
    for engine in (server_engine()[0], client_engine()[0]):
        try:
            engine.feed((HELLO if is_greeted else b"") + noise)
            engine.validate()
        except ProtocolError:
            pass


@settings(max_examples=300)
@given(conversations, st.data())
def test_a_conversation_with_flipped_bytes_ends_in_a_protocol_error_or_in_nothing(
    conversation: list[bytes], draw: st.DataObject
) -> None:
    # given
    wire = bytearray(HELLO + b"".join(conversation))
    for _ in range(draw.draw(st.integers(0, 5))):
        wire[draw.draw(st.integers(0, len(wire) - 1))] = draw.draw(st.integers(0, 255))
    client, _ = client_engine()
    for _ in range(6):
        client.send_request(GET, None, is_end=True, is_bodyless=False)
    # when / then
    for engine in (server_engine()[0], client):
        try:
            engine.feed(bytes(wire))
            engine.validate()
        except ProtocolError:
            pass


class Transfer:
    """A client and a server that move bodies both ways in random steps."""

    def __init__(self, rng: random.Random, window: int) -> None:
        limits = Limits(send_frame_bytes_max=1 << 14)
        self.rng = rng
        self.server, self.server_owner = server_engine(limits, credits=False, window=window)
        self.client, self.client_owner = client_engine(limits, credits=False, window=window)

    def carry(self) -> None:
        join(self.client, self.server, split=lambda wire: cut(wire, self.rng))


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), st.integers(1, 4), st.integers(65_535, 100_000))
def test_windows_never_overflow_and_everything_arrives(seed: int, streams: int, window: int) -> None:
    # given requests whose bodies go both ways at once
    rng = random.Random(seed)
    t = Transfer(rng, window)
    t.carry()
    questions, answers = {}, {}
    for _ in range(streams):
        stream = t.client.send_request(POST, None, is_end=False, is_bodyless=False)
        questions[stream.id] = rng.randbytes(rng.randrange(1, 200_000))
        answers[stream.id] = rng.randbytes(rng.randrange(1, 200_000))
    t.carry()
    for stream_id in answers:
        t.server.send_head(t.server_owner.streams[stream_id], [(":status", "200")], is_end=False)
    t.carry()
    positions: dict[tuple[bool, int], int] = {}
    credited: dict[tuple[bool, int], int] = {}
    # when each side sends what it may, and consumes what it holds, in random steps
    for _ in range(10_000):
        busy = False
        for is_client, engine, bodies in ((True, t.client, questions), (False, t.server, answers)):
            for stream in list(engine.streams.values()):
                key, body = (is_client, stream.id), bodies[stream.id]
                position = positions.get(key, 0)
                count = min(engine.sendable(stream), len(body) - position, rng.randrange(1, 20_000))
                if position < len(body) and count > 0:
                    positions[key] = position + count
                    is_end = position + count == len(body)
                    engine.send_data(stream, memoryview(body)[position : position + count], is_end=is_end)
                    busy = True
        t.carry()
        for is_client, engine, owner in ((True, t.client, t.client_owner), (False, t.server, t.server_owner)):
            for stream in list(engine.streams.values()):
                key = (is_client, stream.id)
                held = len(owner.bodies.get(stream.id, b"")) - credited.get(key, 0)
                if held and rng.random() < 0.7:
                    count = rng.randrange(1, held + 1)
                    credited[key] = credited.get(key, 0) + count
                    engine.consume(stream, count)
                    busy = True
            engine.validate()
        t.carry()
        if not busy and not t.client.streams and not t.server.streams:
            break
    # then every body is whole and nothing is held
    assert {k: bytes(v) for k, v in t.server_owner.bodies.items()} == questions
    assert {k: bytes(v) for k, v in t.client_owner.bodies.items()} == answers
    assert t.client.receive_window.held == t.server.receive_window.held == 0


@settings(max_examples=100)
@given(st.lists(st.sampled_from(["enter", "leave", "cancel", "grow", "shrink", "turn", "lend"]), max_size=40))
def test_a_gate_never_loses_a_place(steps: list[str]) -> None:
    async def main() -> None:
        capacity = 2
        gate = Gate("tests", lambda: capacity, waiters_max=8, lent_max=2)
        inside: list[asyncio.Task[None]] = []
        leave: dict[asyncio.Task[None], asyncio.Event] = {}
        holders: list[asyncio.Event] = []
        lenders: list[asyncio.Event] = []

        async def visit(event: asyncio.Event) -> None:
            try:
                await gate.enter()
            except Overloaded:
                return
            holders.append(event)
            try:
                await event.wait()
            finally:
                if event in lenders:
                    lenders.remove(event)
                    gate.done()
                else:
                    holders.remove(event)
                    gate.leave()

        for step in steps:
            if step == "enter":
                event = asyncio.Event()
                task = asyncio.create_task(visit(event))
                leave[task] = event
                inside.append(task)
            elif step == "leave" and inside:
                leave[inside[0]].set()
            elif step == "cancel" and inside:
                inside.pop().cancel()
            elif step == "grow":
                capacity += 1
                gate.admit()
            elif step == "shrink":
                capacity = max(1, capacity - 1)
            elif step == "lend" and holders:
                has_room = len(lenders) < 2
                assert gate.lend() is has_room
                if has_room:
                    lenders.append(holders.pop(0))
            else:
                await asyncio.sleep(0)
            assert gate.inside >= len(holders)
            assert gate.lent == len(lenders)
        for event in leave.values():
            event.set()
        await asyncio.gather(*leave, return_exceptions=True)
        gate.validate()

    asyncio.run(main())
