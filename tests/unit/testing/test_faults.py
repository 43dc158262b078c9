"""The fault proxy does what it is told, and nothing else."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.testing.faults import FaultProxy, Faults, Pace, decide

DATA = bytes(range(256)) * 4096


@contextmanager
def source() -> Iterator[str]:
    """A server that sends ``DATA`` to whoever sends a byte, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                try:
                    if peer.recv(1):
                        peer.sendall(DATA)
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextmanager
def listener() -> Iterator[tuple[str, queue.Queue[socket.socket]]]:
    """A server that hands its connections to the test."""
    server, taken = socket.create_server(("127.0.0.1", 0)), queue.Queue[socket.socket]()

    def serve() -> None:
        with suppress(OSError):
            while True:
                taken.put(server.accept()[0])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}", taken
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def connected(proxy: FaultProxy) -> socket.socket:
    host, _, port = proxy.address.partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def receive(peer: socket.socket, until: int | None = None) -> bytes:
    got = bytearray()
    while until is None or len(got) < until:
        piece = peer.recv(1 << 16)
        if not piece:
            break
        got += piece
    return bytes(got)


def wait_for_connections(proxy: FaultProxy, count: int) -> None:
    deadline = time.monotonic() + 10
    while proxy.connections < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def fetch(proxy: FaultProxy) -> bytes:
    with connected(proxy) as peer:
        peer.sendall(b"?")
        return receive(peer)


def test_without_faults_every_byte_passes() -> None:
    with source() as address, FaultProxy(address) as proxy:
        assert fetch(proxy) == DATA
        assert fetch(proxy) == DATA
        assert proxy.connections >= 2


def test_a_cut_comes_after_exactly_so_many_bytes() -> None:
    with source() as address, FaultProxy(address) as proxy:
        proxy.faults = Faults(cut_after=100_000)
        with connected(proxy) as peer:
            peer.sendall(b"?")
            assert receive(peer, 100_000) == DATA[:100_000]
            with suppress(ConnectionError):
                assert receive(peer) == b""


def test_a_corrupted_stream_differs_in_one_byte() -> None:
    with source() as address, FaultProxy(address) as proxy:
        proxy.faults = Faults(corrupt_at=300_001)
        got = fetch(proxy)
        assert len(got) == len(DATA)
        assert [i for i in range(len(DATA)) if got[i] != DATA[i]] == [300_001]


def test_a_reset_is_told_as_one() -> None:
    with source() as address, FaultProxy(address, Faults(cut_after=100_000)) as proxy, connected(proxy) as peer:
        peer.sendall(b"?")
        with pytest.raises(ConnectionResetError):
            receive(peer)


def test_a_truncated_reply_ends_politely() -> None:
    with source() as address, FaultProxy(address, Faults(cut_after=100_000, ending="close")) as proxy:
        assert fetch(proxy) == DATA[:100_000]


def test_a_half_closed_connection_still_carries_what_the_client_sends() -> None:
    faults = Faults(cut_after=3, ending="half")
    with (
        listener() as (address, taken),
        FaultProxy(address, faults) as proxy,
        connected(proxy) as near,
        taken.get(timeout=10) as far,
    ):
        # when the server says more than gets through
        far.sendall(b"hello")
        # then the client sees an end, and the server hears the client
        assert receive(near) == b"hel"
        near.sendall(b"are you there?")
        far.settimeout(10)
        assert receive(far, 14) == b"are you there?"
        far.sendall(DATA)  # taken, and dropped
        near.shutdown(socket.SHUT_WR)
        assert receive(far) == b""


def test_a_client_that_half_closes_still_gets_its_reply() -> None:
    with (
        listener() as (address, taken),
        FaultProxy(address) as proxy,
        connected(proxy) as near,
        taken.get(timeout=10) as far,
    ):
        near.sendall(b"a question")
        near.shutdown(socket.SHUT_WR)
        assert receive(far) == b"a question"
        far.sendall(b"an answer")
        far.close()
        assert receive(near) == b"an answer"


def test_delay_costs_round_trips_and_no_throughput() -> None:
    with source() as address, FaultProxy(address, Faults(delay_s=0.1)) as proxy:
        started = time.monotonic()
        assert fetch(proxy) == DATA
        took = time.monotonic() - started
        # a round trip for the connection and one for the reply; a delay for each piece would be 16 times 0.1 s
        assert 0.4 <= took < 0.9


def test_connections_share_a_bandwidth() -> None:
    faults = Faults(shared_bytes_per_s=8 * len(DATA))
    with source() as address, FaultProxy(address, faults) as proxy, ThreadPoolExecutor(4) as threads:
        started = time.monotonic()
        assert list(threads.map(fetch, [proxy] * 4)) == [DATA] * 4
        assert time.monotonic() - started >= 0.5


def test_a_slow_network_takes_its_time() -> None:
    with source() as address, FaultProxy(address) as proxy:
        proxy.faults = Faults(bytes_per_s=4 * len(DATA))
        started = time.monotonic()
        assert fetch(proxy) == DATA
        assert time.monotonic() - started >= 0.25


def test_a_stalled_connection_stays_and_goes_on() -> None:
    with source() as address, FaultProxy(address) as proxy, connected(proxy) as peer:
        proxy.faults = Faults(stalled=True)
        peer.sendall(b"?")
        peer.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.recv(1)
        proxy.faults = Faults()
        peer.settimeout(10)
        assert receive(peer) == DATA


def test_a_refusing_proxy_lets_nobody_in_until_it_is_told() -> None:
    with source() as address, FaultProxy(address) as proxy:
        proxy.faults = Faults(refusing=True)
        with suppress(ConnectionError):
            assert fetch(proxy) == b""
        proxy.faults = Faults()
        assert fetch(proxy) == DATA


def test_cutting_ends_what_runs_and_lets_in_what_comes() -> None:
    with source() as address, FaultProxy(address) as proxy:
        proxy.faults = Faults(stalled=True)
        with connected(proxy) as peer:
            peer.sendall(b"?")
            wait_for_connections(proxy, 1)
            proxy.cut()
            with suppress(ConnectionError):
                assert receive(peer) == b""
        proxy.faults = Faults()
        assert fetch(proxy) == DATA


def test_nobody_behind_the_proxy_is_a_closed_connection() -> None:
    with source() as address:
        pass
    with FaultProxy(address) as proxy, suppress(ConnectionError):
        assert fetch(proxy) == b""


@given(st.integers(0, 50), st.binary(max_size=60), st.integers(0, 120), st.integers(0, 120))
def test_what_passes_before_a_cut_is_a_prefix_with_one_byte_changed(
    passed: int, piece: bytes, cut_after: int, corrupt_at: int
) -> None:
    step = decide(Faults(cut_after=cut_after, corrupt_at=corrupt_at), passed, piece)
    kept = piece[: len(step.data)]
    assert (step.ending is not None) == (passed + len(piece) > cut_after)
    assert passed + len(step.data) <= max(cut_after, passed)
    assert [i + passed for i in range(len(kept)) if kept[i] != step.data[i]] == (
        [corrupt_at] if passed <= corrupt_at < passed + len(kept) else []
    )


@given(st.lists(st.tuples(st.floats(0, 0.1), st.integers(1, 1 << 20)), min_size=1), st.floats(1e3, 1e9))
def test_a_pace_is_never_faster_than_its_bandwidth(sends: list[tuple[float, int]], rate: float) -> None:
    pace, now_s, sent = Pace(), 0.0, 0
    for pause_s, count in sends:
        now_s += pause_s
        sent += count
        left_s = pace.departure_s(now_s, count, rate)
        assert left_s >= now_s + count / rate - 1e-9
        assert sent <= rate * left_s * (1 + 1e-9)
