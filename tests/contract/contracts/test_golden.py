"""Every record keeps its wire form, and nothing else is taken for it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import orjson
import pytest

from forebay.contracts import WIRE_VERSION, Record, WithdrawRequest, decode, decode_newer, encode
from forebay.errors import InvalidRequest

from .before import BEFORE, problems
from .examples import EXAMPLES, golden_form, golden_path

by_record = pytest.mark.parametrize("record", EXAMPLES, ids=lambda r: type(r).__name__)


def kinds(of: type[Record] = Record) -> Iterator[type[Record]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def wrong_value(value: object) -> object:
    """A JSON value of a type that no field with this value takes."""
    return 17 if isinstance(value, (dict, list)) else [{}]


def grown(value: object) -> object:
    """The JSON that a build would write whose records have one field more each."""
    if isinstance(value, Record):
        fields = {name: grown(getattr(value, name)) for name in value.__struct_fields__}
        return fields | {"from_later": [1]}
    if isinstance(value, dict):
        return {name: grown(inner) for name, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [grown(inner) for inner in value]
    return orjson.loads(msgspec.json.encode(value))


def test_this_is_wire_version_1() -> None:
    assert WIRE_VERSION == 1


def test_every_record_has_an_example() -> None:
    ours = {kind for kind in kinds() if kind.__module__.startswith("forebay.")}

    assert ours == {type(record) for record in EXAMPLES}


@by_record
def test_a_record_is_written_as_its_golden_file(record: Record) -> None:
    assert golden_form(record) == golden_path(record).read_bytes()


@by_record
def test_a_golden_file_reads_back_as_the_record(record: Record) -> None:
    assert decode(type(record), golden_path(record).read_bytes()) == record


@by_record
def test_an_unknown_field_is_refused_by_name(record: Record) -> None:
    data = orjson.loads(encode(record)) | {"surprise": 1}

    with pytest.raises(InvalidRequest, match="surprise") as caught:
        decode(type(record), orjson.dumps(data))
    assert caught.value.details["record"] == type(record).__name__


@by_record
def test_a_field_that_a_newer_build_has_more_is_left_out_at_every_depth(record: Record) -> None:
    read, unknown = decode_newer(type(record), orjson.dumps(grown(record)))

    assert read == record
    assert f"{type(record).__name__}.from_later" in unknown


def test_the_golden_files_of_the_version_before_are_kept_and_both_builds_read_each_other() -> None:
    assert BEFORE.is_dir() == (WIRE_VERSION > 1)
    kept = {path.stem: path.read_bytes() for path in BEFORE.glob("*.json")}
    by_name = {type(record).__name__: record for record in EXAMPLES}
    assert kept.keys() <= by_name.keys()
    assert not [why for name, data in kept.items() for why in problems(by_name[name], data)]


class Now(Record, frozen=True):
    """What became of a record of two fields."""

    name: str
    tiers: tuple[WithdrawRequest, ...] = ()
    zone: str = ""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ({"name": "a"}, []),
        ({"name": "a", "tiers": [{"member_id": "w"}]}, []),
        ({"name": "a", "tiers": [{"member_id": "w", "session": "s", "gone": 1}]}, ["tiers[].gone went"]),
        ({"name": "a", "size": 1}, ["size went"]),
        ({"zone": "a"}, ["cannot be read"]),
        ({"name": 1}, ["cannot be read", "name is another type"]),
    ],
)
def test_a_change_that_a_neighbour_cannot_read_is_told(before: dict[str, object], said: list[str]) -> None:
    now = Now(name="b", tiers=(WithdrawRequest(member_id="v"),), zone="z")

    found = problems(now, orjson.dumps(before))

    assert len(found) == len(said), found
    assert all(part in line for part, line in zip(said, found, strict=True))


@by_record
def test_a_missing_field_is_refused_by_name_or_has_a_default(record: Record) -> None:
    whole = orjson.loads(encode(record))
    for field in msgspec.structs.fields(record):
        data = {name: value for name, value in whole.items() if name != field.name}
        if field.required:
            with pytest.raises(InvalidRequest, match=field.name):
                decode(type(record), orjson.dumps(data))
        else:
            decode(type(record), orjson.dumps(data))


@by_record
def test_a_field_of_another_type_is_refused_by_name(record: Record) -> None:
    whole = orjson.loads(encode(record))
    for name, value in whole.items():
        with pytest.raises(InvalidRequest, match=name):
            decode(type(record), orjson.dumps(whole | {name: wrong_value(value)}))


@by_record
@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"text"', b"\xff", b"[" * 5000, b'{"a":NaN}'])
def test_a_body_that_is_no_record_is_refused(record: Record, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode(type(record), body)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("Member", "member_id", ""),
        ("Member", "member_id", "x" * 256),
        ("Member", "role", "gateway"),
        ("Member", "state", "LIVE"),
        ("Member", "capacity_weight", -1.0),
        ("Member", "capacity_weight", 1e16),
        ("Member", "serving_weight", 1.5),
        ("TierInfo", "tier", "HDD"),
        ("TierInfo", "capacity_bytes", -1),
        ("TierInfo", "capacity_bytes", 1 << 63),
        ("TierInfo", "nonce", "0123456789ABCDEF0123456789ABCDEF"),
        ("TierInfo", "nonce", "0123456789abcdef0123456789abcdef\n"),
        ("AnnounceRequest", "ttl_s", 0),
        ("AnnounceRequest", "ttl_s", 301),
        ("AnnounceRequest", "session", "x" * 65),
        ("Mount", "generation", 0),
        ("Mount", "replicas", 17),
        ("MountRequest", "block_size", 5 << 20),
        ("MountRequest", "block_size", 4096),
        ("MountRequest", "max_age_s", -1),
        ("LookupRequest", "path", ""),
        ("LookupRequest", "path", "/" * 4097),
        ("ListRequest", "limit", 0),
        ("ListRequest", "limit", 10_001),
        ("ListRequest", "limit", 1.0),
        ("ListRequest", "limit", True),
        ("ListRequest", "page_token", "x" * 8193),
        ("Entry", "inode", 0),
        ("Entry", "inode", 1 << 63),
        ("Entry", "mode", 0o10000),
        ("Entry", "kind", "symlink"),
        ("Touch", "block_id", "x"),
        ("TicketClaims", "expires_at_s", -1),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(kind: str, field: str, value: object) -> None:
    (record,) = (r for r in EXAMPLES if type(r).__name__ == kind)
    data = orjson.loads(encode(record)) | {field: value}

    with pytest.raises(InvalidRequest, match=field):
        decode(type(record), orjson.dumps(data))


def test_touches_have_a_limit() -> None:
    from forebay.contracts import TouchRequest

    touch = b'{"block_id":"0123456789abcdef0123456789abcdef","opens":1,"read_bytes":1}'
    body = b'{"touches":[' + b",".join([touch] * 20_001) + b"]}"

    with pytest.raises(InvalidRequest, match="touches"):
        decode(TouchRequest, body)


def test_text_that_is_not_unicode_cannot_be_sent() -> None:
    from forebay.contracts import LookupRequest

    with pytest.raises(InvalidRequest, match="LookupRequest"):
        encode(LookupRequest(path="/a\udcff"))


@by_record
def test_records_do_not_change(record: Record) -> None:
    field = msgspec.structs.fields(record)[0].name

    with pytest.raises(AttributeError):
        setattr(record, field, None)
