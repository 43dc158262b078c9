"""No address gets past the allowed roots by spelling: the gate agrees with plain path arithmetic on whole segments."""

from __future__ import annotations

from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from forebay.contracts import UfsOptions
from forebay.errors import InvalidRequest, PermissionDenied
from forebay.ufs import AllowedRoots, UfsUri

SEGMENTS = st.sampled_from(["data", "data2", "dat", "a", "b", "..", ".", "", "%2e%2e", "..data", "x y", "@http:", "="])
PATHS = st.lists(SEGMENTS, max_size=5).map("/".join)
BUCKETS = st.sampled_from(["bucket", "bucket2", "bucke", "BUCKET"])
ENDPOINTS = st.sampled_from(
    [None, "http://m:9000", "http://m:9001", "https://m:9000", "http://M:9000/", "http://n:9000"]
)
PROFILES = st.sampled_from(["default", "lab", "lab2"])


def canonical(endpoint: str | None) -> str:
    return (endpoint or "").lower().rstrip("/")


@given(BUCKETS, PATHS, ENDPOINTS, PROFILES, BUCKETS, PATHS, ENDPOINTS, PROFILES)
def test_what_passes_lies_below_the_root_with_its_endpoint_and_profile(
    bucket: str, path: str, endpoint: str | None, profile: str, b2: str, p2: str, e2: str | None, pr2: str
) -> None:
    # given
    try:
        root = UfsUri.parse(f"s3://{bucket}/{path}")
        uri = UfsUri.parse(f"s3://{b2}/{p2}")
    except InvalidRequest:
        assert any(s in {"", ".", ".."} for p in (path, p2) for s in p.removesuffix("/").split("/") if p)
        return
    entry = f"{profile}={root}" + (f"@{endpoint}" if endpoint else "")
    roots = AllowedRoots.parse([entry])
    # when
    try:
        roots.check(uri, UfsOptions(profile=pr2, endpoint=e2))
        passed = True
    except PermissionDenied:
        passed = False
    # then
    below = PurePosixPath("/", uri.prefix).is_relative_to(PurePosixPath("/", root.prefix))
    same = (bucket, profile, canonical(endpoint)) == (b2, pr2, canonical(e2))
    assert passed == (below and same)


@given(PATHS, st.text(max_size=30))
def test_no_key_leaves_its_mount(prefix: str, key: str) -> None:
    try:
        uri = UfsUri.parse(f"s3://bucket/{prefix}")
        full = uri.full_key(key)
    except InvalidRequest:
        return
    assert full == uri.prefix or full.startswith(f"{uri.prefix}/" if uri.prefix else "")
    assert ".." not in full.split("/")
    assert UfsUri("s3", "bucket", full).is_within(uri)


@given(st.text(max_size=40))
def test_any_text_is_an_address_that_prints_as_itself_or_is_refused(text: str) -> None:
    for scheme in ("s3://", "file://", ""):
        try:
            uri = UfsUri.parse(scheme + text)
        except InvalidRequest:
            continue
        assert UfsUri.parse(str(uri)) == uri
