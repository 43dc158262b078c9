"""A stream's table knows every pair, and the windows keep their sums."""

from __future__ import annotations

import itertools

import pytest

from forebay.transport.flow import ReceiveWindow, SendWindow
from forebay.transport.frames import WINDOW_MAX, ErrorCode, ProtocolError, StreamError
from forebay.transport.streams import TABLE, Input, Phase, Stream, step


def test_the_table_knows_every_pair() -> None:
    assert set(TABLE) == set(itertools.product(Phase, Input))


@pytest.mark.parametrize(("phase", "given"), list(itertools.product(Phase, Input)))
def test_a_step_follows_the_table(phase: Phase, given: Input) -> None:
    wanted = TABLE[phase, given]
    if isinstance(wanted, tuple):
        with pytest.raises(StreamError) as caught:
            step(phase, given)
        assert caught.value.error_code is wanted[0]
    else:
        assert step(phase, given) is wanted
        assert wanted >= phase  # a message never goes back


@pytest.mark.parametrize("given", list(Input))
def test_nothing_may_follow_the_end(given: Input) -> None:
    with pytest.raises(StreamError) as caught:
        step(Phase.END, given)
    assert caught.value.error_code is ErrorCode.STREAM_CLOSED


def test_a_body_must_be_as_long_as_its_head_said() -> None:
    # given
    stream = Stream(1, 100, 100)
    stream.expected = 10
    # when / then
    stream.arrive(9)
    with pytest.raises(StreamError):
        stream.finish_receiving()
    with pytest.raises(StreamError):
        stream.arrive(2)
    stream.arrive(1)
    stream.finish_receiving()
    stream.validate()


def test_a_send_window_may_be_negative_and_never_too_large() -> None:
    # given
    window = SendWindow(10)
    # when the peer shrinks its initial window below what was sent
    window.spend(10)
    window.grow(-5)
    # then
    assert window.size == -5
    with pytest.raises(ProtocolError) as caught:
        window.grow(WINDOW_MAX + 6)
    assert caught.value.error_code is ErrorCode.FLOW_CONTROL_ERROR


def test_credit_goes_back_in_lumps_of_half_a_window() -> None:
    # given
    window = ReceiveWindow(100)
    window.arrive(100)
    # when / then
    assert window.consume(49) == 0
    assert window.consume(1) == 50
    assert window.consume(50) == 50
    assert window.open == 100
    window.validate()


def test_more_than_the_window_is_a_flow_control_error() -> None:
    window = ReceiveWindow(100)
    window.arrive(60)
    with pytest.raises(ProtocolError) as caught:
        window.arrive(41)
    assert caught.value.error_code is ErrorCode.FLOW_CONTROL_ERROR
    window.validate()
