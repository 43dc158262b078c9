"""Our signatures are botocore's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from forebay.ufs.s3_signing import Signer

WORDS = st.text("abcXYZ019/+", min_size=1, max_size=40)
TIMES = st.datetimes(datetime(2015, 1, 1), datetime(2099, 1, 1)).map(lambda t: t.replace(microsecond=0, tzinfo=UTC))
PATHS = st.lists(st.sampled_from(["a", "%20", "%C3%BC", "~", "-", "/", "x=1"]), max_size=8).map(
    lambda p: "/" + "".join(p)
)


def theirs(keys: Credentials, region: str, url: str, now: datetime) -> str:
    """The Authorization header of botocore's signer for a GET with no headers of its own."""

    class At(S3SigV4Auth):  # type: ignore[misc]  # botocore has no types
        def add_auth(self, request: Any) -> None:
            request.context["timestamp"] = now.strftime("%Y%m%dT%H%M%SZ")
            self._modify_request_before_signing(request)
            text = self.string_to_sign(request, self.canonical_request(request))
            self._inject_signature_to_request(request, self.signature(text, request))

        def _modify_request_before_signing(self, request: Any) -> None:
            super()._modify_request_before_signing(request)
            del request.headers["X-Amz-Date"]
            request.headers["X-Amz-Date"] = request.context["timestamp"]

    request = AWSRequest(method="GET", url=url)
    At(keys, "s3", region).add_auth(request)
    return str(request.headers["Authorization"])


@given(access=WORDS, secret=WORDS, token=st.none() | WORDS, path=PATHS, first=TIMES, second=TIMES)
def test_a_signature_is_the_one_that_botocore_makes(
    access: str, secret: str, token: str | None, path: str, first: datetime, second: datetime
) -> None:
    keys, signer = Credentials(access, secret, token), Signer("eu-central-1")
    for now in (first, second, first):  # the kept key must not outlive its day
        ours = signer.headers(keys, "s3.example:9000", path, now)["authorization"]
        assert ours == theirs(keys, "eu-central-1", f"http://s3.example:9000{path}", now)


def test_new_credentials_are_used_at_once() -> None:
    signer, now = Signer("us-east-1"), datetime(2026, 1, 2, tzinfo=UTC)
    old = signer.headers(Credentials("a", "s1"), "h", "/b/k", now)["authorization"]
    new = signer.headers(Credentials("a", "s2"), "h", "/b/k", now)["authorization"]
    assert old != new
    assert new == Signer("us-east-1").headers(Credentials("a", "s2"), "h", "/b/k", now)["authorization"]


def test_a_header_holds_no_secret() -> None:
    headers = Signer("us-east-1").headers(Credentials("a", "CANARY"), "h", "/", datetime(2026, 1, 2, tzinfo=UTC))
    assert "CANARY" not in repr(headers)
