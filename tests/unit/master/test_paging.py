"""Page tokens."""

from __future__ import annotations

import base64

import pytest

from forebay.contracts import Mount
from forebay.errors import InvalidRequest
from forebay_master.paging import Cursor, directory_tag, make_token, parse_token

MOUNT = Mount(mount_id="m", generation=1, path="/", ufs_uri="file:///x", ufs_id="0" * 32)
TAG = directory_tag("/a", MOUNT)


def test_a_token_comes_back_as_the_cursor_it_was_made_of() -> None:
    cursor = Cursor(1_700_000_000.123456, "näme with spaces")
    assert parse_token(TAG, make_token(TAG, cursor)) == cursor
    assert parse_token(TAG, None) is None


@pytest.mark.parametrize(
    "tag",
    [
        directory_tag("/b", MOUNT),
        directory_tag("/a", None),
        directory_tag("/a", Mount(mount_id="m", generation=2, path="/", ufs_uri="file:///x", ufs_id="0" * 32)),
    ],
)
def test_a_token_of_another_directory_or_mount_is_refused(tag: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_token(tag, make_token(TAG, Cursor(1.0, "x")))
    assert refused.value.details["reason"] == "other_directory"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "ä",
        "!!!!",
        "AAAA",
        base64.urlsafe_b64encode(b"\2" + b"\0" * 16 + b"name").decode(),
        make_token(TAG, Cursor(float("nan"), "x")),
        make_token(TAG, Cursor(float("inf"), "x")),
        make_token(TAG, Cursor(1.0, "")),
        make_token(TAG, Cursor(1.0, "a/b")),
        make_token(TAG, Cursor(1.0, "..")),
        base64.urlsafe_b64encode(b"\1" + TAG + b"\0" * 8 + b"\xff").decode(),
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_token(TAG, token)
    assert refused.value.details["reason"] == "malformed_token"
