"""No credential shows up anywhere: the adapter is driven into success and every failure with marked secrets, at the
most talkative log level, and everything that comes out of it is searched for them."""

from __future__ import annotations

import logging
import pprint
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from forebay.contracts import UfsOptions
from forebay.errors import ConfigError, ForebayError, InvalidRequest
from forebay.telemetry import Telemetry, quiet, setup
from forebay.testing import run
from forebay.testing.otlp import otlp_receiver
from forebay.testing.s3 import S3Server
from forebay.ufs import AllowedRoots, Credentials, Ufs, UfsFile, UfsLimits, UfsUri, normal_endpoint, open_ufs
from tests.integration.ufs.scripted import Asked, Reply, scripted

ACCESS = "AKIDCANARY7777777777"
SECRET = "CANARYsecret0123456789abcdefABCDEF"
TOKEN = "CANARYtoken/0123456789=="
MARKS = (ACCESS, SECRET, TOKEN, "CANARY")
LIMITS = UfsLimits(streams_max=2, connect_timeout_s=1.0, silence_timeout_s=0.3, request_timeout_s=2.0, attempts_max=1)


class Everything(logging.Handler):
    """Keeps all that is logged, tracebacks included."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter("%(name)s %(message)s").format(record))


@contextmanager
def all_logs() -> Iterator[Everything]:
    handler, root = Everything(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield handler
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def assert_clean(text: str) -> None:
    for mark in MARKS:
        assert mark not in text, f"{mark} came out: {text[max(0, text.index(mark) - 200) : text.index(mark) + 60]!r}"


def quoting(asked: Asked) -> Reply:
    """A server that says back all it was told: the access key, the token, the whole signed request."""
    told = "".join(f"<{name}>{value}</{name}>" for name, value in asked.headers.items() if name != "host")
    code = "InvalidAccessKeyId" if asked.method == "GET" else "SignatureDoesNotMatch"
    body = f"<Error><Code>{code}</Code><Message>no key {ACCESS}</Message><Secret>{SECRET}</Secret>{told}</Error>"
    return Reply(403, {"x-amz-request-id": "1"}, body.encode())


@pytest.fixture(params=["given", "environment"])
def credentials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Credentials | None:
    if request.param == "given":
        return Credentials(ACCESS, SECRET, TOKEN)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    return None


@asynccontextmanager
async def opened(
    endpoint: str, credentials: Credentials | None, telemetry: Telemetry, uri: str = "s3://lake/set"
) -> AsyncIterator[Ufs]:
    options = UfsOptions(endpoint=endpoint, path_style=True)
    ufs = await open_ufs(UfsUri.parse(uri), options, telemetry=telemetry, credentials=credentials, limits=LIMITS)
    try:
        yield ufs
    finally:
        await ufs.close()


async def everything_fails(ufs: Ufs) -> list[str]:
    """Every call once; the errors as they would be logged."""
    said = [repr(ufs), str(ufs), pprint.pformat(ufs), repr(ufs.uri)]
    forged = UfsFile("a.bin", 10, 0, "781e5e245d69b566979b86e28d23f2c7")
    for call in (
        ufs.list_page(""),
        ufs.stat("a.bin"),
        anext(ufs.read("a.bin", 0, 10, fingerprint=forged.fingerprint)),
    ):
        try:
            await call
        except ForebayError as e:
            said += [str(e), repr(e), repr(e.details), "".join(traceback.format_exception(e))]
    return said


def test_nothing_comes_out_of_failures(credentials: Credentials | None) -> None:
    scripts = [
        quoting,
        lambda _: Reply(500, {}, f"<Error><Code>InternalError</Code><Message>{SECRET}</Message></Error>".encode()),
        lambda _: Reply(200, {}, f"<{SECRET}".encode()),
        lambda _: Reply(200, {"ETag": f'"{SECRET}"', "Location": f"http://{ACCESS}:{SECRET}@x/"}, b"", cut=True),
        lambda _: Reply(200, {}, b"", length=99, hang=True),
        lambda _: Reply(301, {"Location": f"http://{ACCESS}:{SECRET}@127.0.0.1:1/"}, b""),
    ]

    async def main() -> list[str]:
        said: list[str] = []
        for script in scripts:
            async with scripted(script) as (_, endpoint), opened(endpoint, credentials, telemetry) as ufs:
                said += await everything_fails(ufs)
        async with opened("http://127.0.0.1:1", credentials, telemetry) as ufs:
            return said + await everything_fails(ufs)

    with otlp_receiver() as receiver, all_logs() as logs:
        # given
        telemetry = setup("forebay-worker", member_id="w", otlp_endpoint=receiver.endpoint, sample_ratio=1.0)
        # when
        said = run(main())
        telemetry.shutdown()
        spans, points = receiver.spans(), receiver.points()
    # then
    assert len(said) > 40
    assert {span.name for span in spans} == {"ufs list", "ufs stat", "ufs read", "S3.HeadObject", "S3.ListObjectsV2"}
    for text in [*said, *logs.lines, *map(repr, spans), *map(repr, points), telemetry.metrics.render().decode()]:
        assert_clean(text)


@pytest.mark.s3
def test_nothing_comes_out_of_work_that_succeeds(lake: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    for name, value in lake.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)

    async def main() -> None:
        async with opened(lake.endpoint, None, telemetry) as ufs:
            entry = await ufs.stat("a.bin")
            assert isinstance(entry, UfsFile)
            said.extend([repr(ufs) async for _ in ufs.read("a.bin", 0, 10, fingerprint=entry.fingerprint)])
            await ufs.list_page("")

    said: list[str] = []
    with otlp_receiver() as receiver, all_logs() as logs:
        telemetry = setup("forebay-worker", member_id="w", otlp_endpoint=receiver.endpoint, sample_ratio=1.0)
        # when
        run(main())
        telemetry.shutdown()
        spans = receiver.spans()
    # then
    names = [span.name for span in spans]
    assert [name for name in names if name.startswith("ufs ")] == ["ufs stat", "ufs read", "ufs list"]
    assert {name for name in names if not name.startswith("ufs ")} == {"S3.HeadObject", "S3.ListObjectsV2"}
    for text in [*said, *logs.lines, *map(repr, spans), telemetry.metrics.render().decode()]:
        assert_clean(text)


def test_credentials_are_not_in_their_own_repr() -> None:
    given = Credentials(ACCESS, SECRET, TOKEN)
    for text in (repr(given), str(given), f"{given}", pprint.pformat(given)):
        assert_clean(text)


@pytest.mark.parametrize("text", [f"http://{ACCESS}:{SECRET}@minio:9000", f"http://minio:{SECRET}", f"x://{SECRET}"])
def test_an_endpoint_that_holds_a_password_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        normal_endpoint(text)
    assert_clean("".join(traceback.format_exception(caught.value)))
    assert_clean(repr(caught.value.details))
    with pytest.raises(ConfigError) as refused:
        AllowedRoots.parse([f"s3://bucket/x@{text}"])
    assert_clean("".join(traceback.format_exception(refused.value)))


@pytest.mark.usefixtures("no_aws")
def test_a_broken_profile_is_refused_without_being_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    # given
    from pathlib import Path

    files = Path(str(tmp_path)) / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(files))

    async def main(profile: str) -> str:
        options = UfsOptions(endpoint="http://127.0.0.1:1", profile=profile)
        try:
            ufs = await open_ufs(UfsUri.parse("s3://lake/set"), options, telemetry=quiet(), limits=LIMITS)
        except ForebayError as e:
            return "".join(traceback.format_exception(e))
        await ufs.close()
        raise AssertionError("it opened")

    for text in (
        f"[lake]\naws_access_key_id={ACCESS}\n",
        f"[lake\naws_secret_access_key={SECRET}\n",
        f"{SECRET}\n",
        f"[lake]\ncredential_process=echo {SECRET}\n",
        f"[lake]\nrole_arn={SECRET}\nsource_profile=gone\n",
    ):
        # when
        files.write_text(text)
        with all_logs() as logs:
            said = run(main("lake"))
        # then
        for line in [said, *logs.lines]:
            assert_clean(line)
