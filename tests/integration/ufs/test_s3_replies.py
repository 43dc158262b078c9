"""The S3 adapter against replies that a well-behaved server does not give."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from forebay.contracts import UfsOptions
from forebay.errors import (
    ConfigError,
    ForebayError,
    NotFound,
    StaleVersion,
    UfsDenied,
    UfsError,
    UfsUnavailable,
)
from forebay.testing import run
from forebay.ufs import Ufs, UfsLimits, check_listable
from tests.integration.ufs.scripted import QUICK, Asked, Reply, Script, opened, scripted

DATA = bytes(range(256)) * 16
TAGGED = {"ETag": '"tag"', "Content-Type": "x/y"}


def s3_xml(code: str, extra: str = "") -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message>{extra}</Error>".encode()


async def read(ufs: Ufs, start: int = 100, length: int = 50, size: int | None = None) -> bytes:
    return b"".join([piece async for piece in ufs.read("x", start, length, fingerprint="tag", size=size)])


def reading(script: Script, start: int = 100, length: int = 50) -> bytes:
    """What one read gives against that script."""

    async def main() -> bytes:
        async with scripted(script) as (_, endpoint), opened(endpoint) as ufs:
            return await read(ufs, start, length)

    return run(main())


def part(start: int, length: int) -> dict[str, str]:
    return {**TAGGED, "Content-Range": f"bytes {start}-{start + length - 1}/{len(DATA)}"}


def test_a_range_answered_200_with_the_right_content_range_is_taken() -> None:
    assert reading(lambda _: Reply(200, part(100, 50), DATA[100:150])) == DATA[100:150]


@pytest.mark.parametrize(("start", "length"), [(0, 10), (100, 50), (4095, 1), (0, 4096)])
def test_the_range_is_cut_from_a_whole_object_when_range_is_ignored(start: int, length: int) -> None:
    assert reading(lambda _: Reply(200, TAGGED, DATA), start, length) == DATA[start : start + length]


def test_too_much_in_front_of_the_range_is_an_error_that_says_why() -> None:
    async def main() -> None:
        limits = UfsLimits(discard_max_bytes=64, silence_timeout_s=1.0)
        async with (
            scripted(lambda _: Reply(200, TAGGED, DATA)) as (_, endpoint),
            opened(endpoint, limits=limits) as ufs,
        ):
            with pytest.raises(UfsError, match="ignores Range"):
                await read(ufs)

    run(main())


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(206, part(100, 49), DATA[100:149]), UfsError),  # another range
        (Reply(206, part(0, 50), DATA[:50]), UfsError),
        (Reply(206, {**TAGGED, "Content-Range": "bytes oops"}, DATA[:50]), UfsError),
        (Reply(206, TAGGED, DATA[:50]), UfsError),  # a part without saying which
        (Reply(206, {**part(100, 50), "ETag": '"other"'}, DATA[100:150]), StaleVersion),
        (Reply(206, {k: v for k, v in part(100, 50).items() if k != "ETag"}, DATA[100:150]), StaleVersion),
        (Reply(412, {}, s3_xml("PreconditionFailed")), StaleVersion),
        (Reply(404, {}, s3_xml("NoSuchKey")), NotFound),
        (Reply(404, {}, b""), NotFound),
        (Reply(403, {}, s3_xml("AccessDenied")), UfsDenied),
        (Reply(403, {}, s3_xml("RequestTimeTooSkewed")), UfsDenied),
        (Reply(400, {}, s3_xml("ExpiredToken")), UfsDenied),
        (Reply(401, {}, b"<html>"), UfsDenied),
        (Reply(503, {}, s3_xml("SlowDown")), UfsUnavailable),
        (Reply(500, {}, s3_xml("InternalError")), UfsUnavailable),
        (Reply(429, {}, b""), UfsUnavailable),
        (Reply(400, {}, s3_xml("RequestTimeout")), UfsUnavailable),
        (Reply(307, {"Location": "http://127.0.0.1:1/"}, s3_xml("TemporaryRedirect")), UfsUnavailable),
        (Reply(400, {}, b"\xff\x00" * 50_000), UfsError),
        (Reply(204, {}, b""), UfsError),
        (Reply(206, part(100, 50), DATA[100:120], length=50, cut=True), UfsUnavailable),  # ends early
        (Reply(206, part(100, 50), DATA[100:120], length=50, hang=True), UfsUnavailable),  # falls silent
        (Reply(206, part(100, 50), DATA[100:120]), UfsUnavailable),  # shorter than its own range says
    ],
)
def test_each_bad_reply_is_the_error_it_means(reply: Reply, error: type[ForebayError]) -> None:
    with pytest.raises(error) as caught:
        reading(lambda _: reply)
    assert type(caught.value) is error
    assert caught.value.retryable == (error is UfsUnavailable)


def test_a_body_longer_than_its_range_is_an_error_and_none_of_it_is_taken() -> None:
    with pytest.raises(UfsError, match="longer"):
        reading(lambda _: Reply(206, part(100, 50), DATA[100:900]))


def test_bytes_behind_the_length_are_not_taken_for_the_next_answer() -> None:
    async def main() -> None:
        reply = Reply(206, part(100, 50), DATA[100:900], length=50)
        async with scripted(lambda _: reply) as (s3, endpoint), opened(endpoint) as ufs:
            for _ in range(3):
                assert await read(ufs) == DATA[100:150]
        assert s3.connections == 3

    run(main())


def test_a_compressed_object_is_handed_on_as_it_is_stored() -> None:
    asked: list[Asked] = []

    def script(request: Asked) -> Reply:
        asked.append(request)
        return Reply(206, {**part(100, 50), "Content-Encoding": "gzip"}, DATA[100:150])

    assert reading(script) == DATA[100:150]
    assert asked[0].headers["accept-encoding"] == "identity"


def test_a_416_for_a_shorter_new_version_is_stale() -> None:
    def script(asked: Asked) -> Reply:
        if asked.method == "HEAD":
            return Reply(200, {"ETag": '"new"', "Last-Modified": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"1")
        return Reply(416, {}, s3_xml("InvalidRange"))

    with pytest.raises(StaleVersion):
        reading(script)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(301, {"x-amz-bucket-region": "eu-west-3"}, s3_xml("PermanentRedirect")),
        Reply(400, {}, s3_xml("AuthorizationHeaderMalformed", "<Region>eu-west-3</Region>")),
    ],
)
def test_another_region_is_named(reply: Reply) -> None:
    with pytest.raises(UfsError, match="eu-west-3") as caught:
        reading(lambda _: reply)
    assert caught.value.details["region"] == "eu-west-3"
    assert not caught.value.retryable


def test_a_listing_from_another_region_names_it_before_any_data_is_read() -> None:
    async def main() -> None:
        # given
        reply = Reply(200, {"x-amz-bucket-region": "eu-west-3"}, b"<ListBucketResult></ListBucketResult>")
        async with scripted(lambda _: reply) as (_, endpoint), opened(endpoint) as ufs:
            # when, then
            with pytest.raises(UfsError, match="eu-west-3"):
                await check_listable(ufs)

    run(main())


def test_nobody_at_the_endpoint_is_unavailable() -> None:
    async def main() -> None:
        async with scripted(lambda _: Reply()) as (_, endpoint):
            pass
        async with opened(endpoint) as ufs:
            for call in (check_listable(ufs), ufs.stat("x"), read(ufs)):
                with pytest.raises(UfsUnavailable):
                    await call

    run(main())


def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    async def main() -> None:
        async with (
            scripted(lambda _: Reply(200, {}, b"", length=9, hang=True)) as (_, endpoint),
            opened(endpoint) as ufs,
        ):
            for call in (check_listable(ufs), read(ufs)):
                with pytest.raises(ForebayError):
                    await call

    run(main())


def listing(body: str) -> Script:
    return lambda _: Reply(
        200, {"Content-Type": "application/xml"}, f"<ListBucketResult>{body}</ListBucketResult>".encode()
    )


def one(key: str, etag: str = "&quot;t&quot;", size: str = "1") -> str:
    when = "<LastModified>2026-10-21T07:28:00.123Z</LastModified>"
    return f"<Contents><Key>{key}</Key>{when}<ETag>{etag}</ETag><Size>{size}</Size></Contents>"


@pytest.mark.parametrize(
    "body",
    [
        one("other/key"),
        "<CommonPrefixes><Prefix>q/dir/</Prefix></CommonPrefixes>",
        "<IsTruncated>true</IsTruncated>" + one("p/x"),
        "<IsTruncated>true</IsTruncated><NextContinuationToken></NextContinuationToken>" + one("p/x"),
    ],
)
def test_a_listing_that_cannot_be_right_is_an_error(body: str) -> None:
    async def main() -> None:
        async with scripted(listing(body)) as (_, endpoint), opened(endpoint) as ufs:
            with pytest.raises(UfsError):
                await ufs.list_page("")

    run(main())


def test_a_listing_that_turns_in_a_circle_is_an_error() -> None:
    async def main() -> None:
        body = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>" + one("p/x")
        async with scripted(listing(body)) as (_, endpoint), opened(endpoint) as ufs:
            page = await ufs.list_page("")
            assert page.next_token == "t"
            with pytest.raises(UfsError, match="does not go on"):
                await ufs.list_page("", token=page.next_token)

    run(main())


@pytest.mark.parametrize("junk", [b"", b"{}", b"<html>no</html", b"\xff\xfe" * 100, b"<ListBucketResult><Contents>"])
def test_a_listing_that_is_no_listing_is_an_error(junk: bytes) -> None:
    async def main() -> None:
        async with scripted(lambda _: Reply(200, {}, junk)) as (_, endpoint), opened(endpoint) as ufs:
            with pytest.raises(ForebayError):
                await ufs.list_page("")

    run(main())


def test_objects_that_cannot_be_files_are_skipped_and_counted() -> None:
    async def main() -> None:
        # given
        names = ["p/", "p/.", "p/..", "p/" + "x" * 256, "p/bare", "p/good"]
        contents = "".join(one(name) for name in names) + one("p/untagged", etag="") + one("p/odd", etag="a&#10;b")
        prefixes = "<CommonPrefixes><Prefix>p//</Prefix></CommonPrefixes>"
        async with scripted(listing(contents + prefixes)) as (_, endpoint), opened(endpoint) as ufs:
            # when
            page = await ufs.list_page("")
        # then
        assert [entry.key for entry in page.entries] == ["bare", "good"]
        assert page.skipped == 6  # ".", "..", the long one, two without a usable tag, "p//"; the marker "p/" is no name

    run(main())


def test_keys_that_are_not_utf8_are_skipped_and_encoded_ones_are_read() -> None:
    async def main() -> None:
        # given
        keys = ["p/bad%FF", "p/%ED%A0%80", "p/a+b%2B%25", "p/%EF%BF%BD", "p/plain"]
        folders = "".join(f"<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>" for name in ("p/%C3", "p/d+e"))
        body = "<EncodingType>url</EncodingType>" + "".join(map(one, keys)) + folders
        async with scripted(listing(body)) as (s3, endpoint), opened(endpoint) as ufs:
            # when
            page = await ufs.list_page("")
        # then
        assert [entry.key for entry in page.entries] == ["a b+%", "d e", "plain", "\ufffd"]
        assert page.skipped == 3
        assert "encoding-type=url" in s3.asked[0].target

    run(main())


def test_a_mount_without_path_style_takes_it_from_the_endpoint_and_keys_are_sent_as_they_are() -> None:
    async def main() -> None:
        # given
        async with (
            scripted(lambda _: Reply(206, part(0, 1), DATA[:1])) as (s3, endpoint),
            opened(endpoint, options=UfsOptions(endpoint=endpoint, region="eu-central-1")) as ufs,
        ):
            # when
            async for _ in ufs.read("a b+c%41/ü?#&=~", 0, 1, fingerprint="tag"):
                pass
        # then
        asked = s3.asked[0]
        assert asked.target == "/bucket/p/a%20b%2Bc%2541/%C3%BC%3F%23%26%3D~"
        assert "/eu-central-1/s3/aws4_request" in asked.headers["authorization"]
        assert asked.headers["x-amz-security-token"] == "CANARY-session-token"
        assert asked.headers["range"] == "bytes=0-0"
        assert asked.headers["if-match"] == '"tag"'

    run(main())


def test_an_anonymous_mount_signs_nothing() -> None:
    async def main() -> None:
        def script(asked: Asked) -> Reply:
            return Reply(206, part(0, 1), DATA[:1]) if "list-type" not in asked.target else Reply(404)

        async with (
            scripted(script) as (s3, endpoint),
            opened(endpoint, options=UfsOptions(endpoint=endpoint, anonymous=True)) as ufs,
        ):
            await read(ufs, 0, 1)
            with pytest.raises(NotFound):
                await ufs.list_page("")
        assert s3.asked
        assert all("authorization" not in asked.headers for asked in s3.asked)

    run(main())


def test_connections_are_kept_and_never_more_than_the_streams() -> None:
    async def main() -> None:
        async with (
            scripted(lambda _: Reply(206, part(100, 50), DATA[100:150])) as (s3, endpoint),
            opened(endpoint) as ufs,
        ):
            for _ in range(10):
                await read(ufs)
        assert s3.connections == 1

    run(main())


def test_a_kept_connection_that_the_server_closed_is_replaced_unseen() -> None:
    async def main() -> None:
        async with (
            scripted(lambda _: Reply(206, part(100, 50), DATA[100:150])) as (s3, endpoint),
            opened(endpoint) as ufs,
        ):
            await read(ufs)
            s3.drop_connections()
            assert await read(ufs) == DATA[100:150]
        assert s3.connections == 2

    run(main())


def test_a_servers_certificate_is_trusted_by_the_mounts_ca_file_and_by_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        # given
        authority = trustme.CA()
        ca_file = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(tls)

        def script(asked: Asked) -> Reply:
            return Reply(206, part(100, 50), DATA[100:150]) if "range" in asked.headers else listing(one("p/x"))(asked)

        async with scripted(script, tls=tls) as (_, endpoint):
            # when
            trusted = UfsOptions(endpoint=endpoint, path_style=True, ca_file=str(ca_file))
            async with opened(endpoint, options=trusted) as ufs:
                # then
                await check_listable(ufs)
                assert await read(ufs) == DATA[100:150]
            async with opened(endpoint) as ufs:
                for call in (check_listable(ufs), read(ufs)):
                    with pytest.raises(UfsError, match="certificate") as caught:
                        await call
                    assert not caught.value.retryable

    run(main())


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_a_ca_file_that_cannot_be_used_is_named_at_once(tmp_path: Path, text: str) -> None:
    async def main() -> None:
        ca_file = tmp_path / "ca.pem"
        if text:
            ca_file.write_text(text)
        options = UfsOptions(endpoint="https://localhost:1", ca_file=str(ca_file))
        with pytest.raises(ConfigError, match="ca_file"):
            async with opened("", options=options, limits=QUICK):
                pass

    run(main())
