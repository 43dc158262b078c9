"""Addresses of under stores: what is taken, what is refused, and what they name."""

from __future__ import annotations

import pytest

from forebay.contracts import UfsOptions
from forebay.errors import InvalidRequest
from forebay.ufs import UfsUri, is_file_name, normal_endpoint


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("s3://bucket", UfsUri("s3", "bucket", "")),
        ("s3://bucket/", UfsUri("s3", "bucket", "")),
        ("s3://bucket/a/b", UfsUri("s3", "bucket", "a/b")),
        ("s3://bucket/a/b/", UfsUri("s3", "bucket", "a/b")),
        ("s3://my.bucket-1/a b/ü%41?#", UfsUri("s3", "my.bucket-1", "a b/ü%41?#")),
        ("file:///data", UfsUri("file", "", "data")),
        ("file:///data/sub dir/", UfsUri("file", "", "data/sub dir")),
        ("file:///", UfsUri("file", "", "")),
    ],
)
def test_an_address_is_read_as_it_stands(text: str, uri: UfsUri) -> None:
    assert UfsUri.parse(text) == uri
    assert UfsUri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bucket",
        "/data",
        "s3:/bucket",
        "s3://",
        "s3:///key",
        "s3://b",
        "s3://bu..cket",
        "s3://-bucket",
        "s3://user:password@bucket/x",
        "s3://bucket//a",
        "s3://bucket/a//b",
        "s3://bucket/a//",
        "s3://bucket/../x",
        "s3://bucket/a/..",
        "s3://bucket/./a",
        "s3://bucket/\0",
        "s3://bucket/a\nb",
        "s3://bucket/\udcff",
        "s3://bucket/" + "x" * 256,
        "s3://bucket/" + "x/" * 3000 + "x",
        "file://",
        "file://data",
        "file://host/data",
        "file:///data/../etc",
        "http://x:y/y",
        "S3://bucket",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        UfsUri.parse(text)


def test_a_full_key_stays_below_the_prefix() -> None:
    uri = UfsUri.parse("s3://bucket/a/b")
    assert uri.full_key("c/d") == "a/b/c/d"
    assert uri.full_key("") == "a/b"
    assert UfsUri.parse("s3://bucket").full_key("c") == "c"
    for key in ["..", "../b2", "c/../../x", "/x", "c/", ".", "a\0"]:
        with pytest.raises(InvalidRequest):
            uri.full_key(key)


def test_data_mounted_twice_has_one_name() -> None:
    options, other = UfsOptions(), UfsOptions(profile="other", region="eu-west-1", path_style=True)
    outer, inner = UfsUri.parse("s3://bucket/a"), UfsUri.parse("s3://bucket/a/b")
    assert outer.version_id(options, "b/c", "tag") == inner.version_id(other, "c", "tag")
    assert outer.ufs_id(options) == inner.ufs_id(other)


def test_what_differs_has_another_name() -> None:
    options = UfsOptions()
    uri = UfsUri.parse("s3://bucket/a")
    elsewhere = UfsOptions(endpoint="http://minio:9000")
    names = {
        uri.version_id(options, "x", "tag"),
        uri.version_id(options, "x", "tag2"),
        uri.version_id(options, "y", "tag"),
        uri.version_id(elsewhere, "x", "tag"),
        UfsUri.parse("s3://bucket2/a").version_id(options, "x", "tag"),
        UfsUri.parse("file:///bucket/a").version_id(options, "x", "tag"),
    }
    assert len(names) == 6


def test_an_endpoint_has_one_spelling() -> None:
    for text in ["http://MinIO:80", "http://minio", "http://minio/", "HTTP://minio:80/"]:
        assert normal_endpoint(text) == "http://minio"
    assert normal_endpoint("https://x:443") == "https://x"
    assert normal_endpoint("https://x:80") == "https://x:80"
    assert normal_endpoint("http://[::1]:9000") == "http://[::1]:9000"
    assert normal_endpoint(None) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "minio:9000",
        "ftp://x",
        "http://",
        "http://x/path",
        "http://x?q",
        "http://x#f",
        "http://u@x",
        "http://x:99999",
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        normal_endpoint(text)


def test_names_that_no_file_can_have_are_known() -> None:
    assert all(is_file_name(name) for name in ["a", " ", "...", "ü" * 127, "-", "a\nb", "x" * 255])
    assert not any(is_file_name(name) for name in ["", ".", "..", "a/b", "a\0", "ü" * 128, "x" * 256, "\udcff"])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("memory://data/x/", "memory://data/x"),
        ("http://host:8080/set", "http://host:8080/set"),
        ("https://host", "https://host"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("abfs://container@account.dfs.example/a", "abfs://container@account.dfs.example/a"),
    ],
)
def test_what_fsspec_knows_has_an_address(text: str, shown: str) -> None:
    assert str(UfsUri.parse(text)) == shown


@pytest.mark.parametrize(
    "text", ["http://user:secret@host/x", "local:///etc", "simplecache::s3://b", "zip://a", "HTTP://x"]
)
def test_passwords_wrappers_and_other_names_for_files_are_no_source(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        UfsUri.parse(text)
    assert "secret" not in refused.value.message
