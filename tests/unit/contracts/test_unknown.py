"""Fields of a newer build: left out at every depth and named, while everything else is checked as ever."""

from __future__ import annotations

import orjson
import pytest
from msgspec import field

from forebay.contracts import AnnounceRequest, Member, Record, WithdrawRequest, decode, decode_newer, decode_stored
from forebay.contracts.codec import LONG
from forebay.errors import InvalidRequest

MEMBER = {"member_id": "w1", "role": "worker", "tcp": "h:1"}


class Nested(Record, frozen=True):
    """A record with records in every place a record can be."""

    plain: WithdrawRequest
    maybe: WithdrawRequest | None = None
    many: tuple[WithdrawRequest, ...] = ()
    named: dict[str, WithdrawRequest] = field(default_factory=dict)
    free: dict[str, str | int] = field(default_factory=dict)


def newer(member_id: str = "a") -> dict[str, object]:
    return {"member_id": member_id, "zone": {"deep": [1]}}


def test_unknown_fields_are_left_out_at_every_depth_and_named() -> None:
    said = {
        "plain": newer(), "maybe": newer(), "many": [newer(), newer("b")], "named": {"x": newer("c")},
        "free": {"zone": 1}, "later": None,
    }  # fmt: skip

    record, unknown = decode_newer(Nested, orjson.dumps(said))

    a, b, c = (WithdrawRequest(member_id=name) for name in "abc")
    assert record == Nested(plain=a, maybe=a, many=(a, b), named={"x": c}, free={"zone": 1})
    assert unknown == {"WithdrawRequest.zone", "Nested.later"}


def test_a_record_without_unknown_fields_names_none() -> None:
    record, unknown = decode_newer(Member, orjson.dumps(MEMBER))
    assert (record, unknown) == (decode(Member, orjson.dumps(MEMBER)), frozenset())


def test_a_long_body_of_a_newer_build_is_read_as_well() -> None:
    body = orjson.dumps({"plain": newer(), "many": [newer(str(number)) for number in range(3000)]})
    assert len(body) > LONG
    assert [item.member_id for item in decode_stored(Nested, body).many] == [str(number) for number in range(3000)]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'"text"', b"null", b"[" * 5000, b"\xff",
        b'{"zone": 1, "member_id": 7}', b'{"zone": 1}', b'{"zone": 1, "member_id": "a"',
        b'{"zone": 1, "zone": {"member_id": "a"}}',
    ],
)  # fmt: skip
def test_what_is_wrong_otherwise_is_refused_of_a_newer_build_too(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_newer(WithdrawRequest, body)
    assert caught.value.details["record"] == "WithdrawRequest"


def test_a_broken_end_behind_an_unknown_field_is_no_json() -> None:
    body = b'{"zone": [' + b"1," * LONG
    for read in (decode, decode_newer):
        with pytest.raises(InvalidRequest, match="not JSON"):
            read(WithdrawRequest, body)


@pytest.mark.parametrize(
    ("said", "near"),
    [({"membr_id": "a"}, "'membr_id' is no field of WithdrawRequest, did you mean 'member_id'"), ({"qqqq": 1}, None)],
)
def test_a_refused_name_that_is_near_a_field_gets_it_suggested(said: dict[str, object], near: str | None) -> None:
    with pytest.raises(InvalidRequest, match="unknown field") as caught:
        decode(WithdrawRequest, orjson.dumps(said | {"member_id": "a"}))
    assert (near or "did you mean") in caught.value.message or near is None
    assert ("did you mean" in caught.value.message) == (near is not None)


def test_a_name_inside_a_record_is_suggested_from_that_record() -> None:
    said = {"member": MEMBER | {"uids": "/x"}, "session": "s", "ttl_s": 1}
    with pytest.raises(InvalidRequest, match="'uids' is no field of Member, did you mean 'uds'"):
        decode(AnnounceRequest, orjson.dumps(said))


def test_thousands_of_unknown_names_are_refused_shortly() -> None:
    said = {f"{number}-member" + "x" * 200: 1 for number in range(3000)}
    with pytest.raises(InvalidRequest) as caught:
        decode(WithdrawRequest, orjson.dumps(said))
    assert len(caught.value.message) < 600
