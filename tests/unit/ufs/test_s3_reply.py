"""The pure half of the S3 adapter: tags, ranges, errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import ForebayError, RangeNotSatisfiable, StaleVersion, UfsError
from forebay.ufs.s3_reply import Body, Wanted, clean_etag, error_of_reply, judge_data_reply, s3_error
from forebay.ufs.s3_session import parse_time

TAG = {"ETag": '"t"'}


def test_tags_are_compared_without_their_dress() -> None:
    for text in ['"abc-12"', "abc-12", 'W/"abc-12"', ' "abc-12" ']:
        assert clean_etag(text) == "abc-12"
    for none in [None, "", '""', '"a b"', '"a\nb"', '"ü"', '"' + "x" * 256 + '"', 'a"b']:
        assert clean_etag(none) is None


@given(st.integers(0, 300), st.integers(1, 300), st.integers(0, 300), st.booleans(), st.booleans())
def test_a_reply_is_cut_right_or_refused(start: int, length: int, total: int, ranged: bool, claims: bool) -> None:
    # given: a server that holds `total` bytes, and sends the range or all of it
    data = bytes(i % 251 for i in range(total))
    wanted = Wanted("k", start, length, "t", size=total if claims else None)
    headers = {**TAG, "Content-Length": str(total)}
    body, status = data, 200
    if ranged and start < total:
        body, status = data[start : start + length], 206
        headers = {**TAG, "Content-Range": f"bytes {start}-{start + len(body) - 1}/{total}"}
    # when
    try:
        verdict = judge_data_reply(wanted, status, headers, discard_max_bytes=1000)
    except RangeNotSatisfiable:
        # then
        assert start + length > total
        return
    assert body[verdict.skip : verdict.skip + length] == data[start : start + length]
    assert start + length <= total


def test_an_unknown_total_is_taken() -> None:
    headers = {**TAG, "Content-Range": "bytes 5-9/*"}
    assert judge_data_reply(Wanted("k", 5, 5, "t", size=10), 206, headers, 0) == Body(0)


@given(st.text(max_size=60), st.sampled_from([200, 206]))
def test_any_content_range_is_the_wanted_one_or_refused(text: str, status: int) -> None:
    with pytest.raises((UfsError, StaleVersion, RangeNotSatisfiable)):
        judge_data_reply(Wanted("k", 5, 5, "t"), status, {**TAG, "Content-Range": f"bytes {text}"}, 0)


@given(st.integers(100, 999), st.text(max_size=80), st.none() | st.text(max_size=20))
def test_every_answer_is_some_error_of_ours_that_prints_on_one_line(status: int, code: str, region: str | None) -> None:
    error = s3_error("key", status, code, region)
    assert isinstance(error, ForebayError)
    assert "\n" not in str(error)
    assert all("\n" not in str(value) for value in error.details.values())


@given(st.binary(max_size=200))
def test_no_body_confuses_the_error(body: bytes) -> None:
    assert error_of_reply("key", 503, {}, body).retryable


@pytest.mark.parametrize(
    "text",
    ["2026-10-21T07:28:00.000Z", "2026-10-21T07:28:00", "2026-10-21T07:28:00+00:00", "Wed, 21 Oct 2026 07:28:00 GMT"],
)
def test_a_time_is_the_same_in_every_spelling(text: str) -> None:
    assert parse_time(text).timestamp() == 1792567680
