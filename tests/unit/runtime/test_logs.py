"""Log lines: their form, their trace, and the secrets that are not in them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import orjson
import pytest

from forebay.contracts.tickets import KeyRing, TicketClaims, sign
from forebay.errors import ConfigError
from forebay.runtime import logs
from forebay.telemetry import TraceContext, quiet

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
CLAIMS = TicketClaims(
    cluster="c", mount_id="m", generation=1, prefix="/", client="x", rights="r", expires_at_s=1_900_000_000.0
)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    logging.getLogger("forebay").setLevel(logging.NOTSET)
    logs._HIDDEN.clear()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_json_object_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("forebay-worker", "info", True)

    logs.get("forebay_worker.app").info("ready", address="127.0.0.1:1")

    (line,) = lines(capsys)
    assert line["event"] == "ready"
    assert line["service"] == "forebay-worker"
    assert line["logger"] == "forebay.worker.app"
    assert line["level"] == "info"
    assert line["address"] == "127.0.0.1:1"
    assert "trace_id" not in line


def test_a_line_inside_a_span_names_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("forebay-worker", "info", True)
    parent = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", False)

    with quiet().tracer.start("x", kind="server", parent=parent):
        logs.get("forebay.x").info("inside")

    (line,) = lines(capsys)
    assert (line["trace_id"], line["span_id"]) == (parent.trace_id, parent.span_id)


def test_the_level_holds_back_what_is_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("s", "warning", True)

    logs.get("forebay.x").info("quiet")
    logs.get("forebay.x").warning("loud")

    assert [line["event"] for line in lines(capsys)] == ["loud"]


def test_third_parties_log_in_the_same_form_from_warning_up(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("s", "debug", True)

    logging.getLogger("kazoo.client").info("chatter")
    logging.getLogger("kazoo.client").warning("lost %s", "it")

    (line,) = lines(capsys)
    assert (line["event"], line["logger"]) == ("lost it", "kazoo.client")


def test_a_repeating_exporter_is_heard_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("s", "info", True)

    for _ in range(5):
        logging.getLogger("opentelemetry.exporter").warning("no collector")

    assert len(lines(capsys)) == 1


def test_an_unknown_level_is_a_setting_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="log_level"):
        logs.setup("s", "loud", True)


@pytest.mark.parametrize("json", [True, False])
def test_no_secret_reaches_a_line_whatever_its_way_in(capsys: pytest.CaptureFixture[str], json: bool) -> None:
    logs.setup("s", "info", json)
    logs.hide(SECRET)
    ticket = sign(KeyRing((("k1", b"0123456789abcdef"),)), CLAIMS)
    log = logs.get("forebay.x")

    log.info("field", ticket="t0psecret-ticket", admin_token="t0psecret-token", authorization="t0psecret-a")
    log.info("event with " + SECRET, nested={"deep": [SECRET]}, header=f"Bearer {ticket}", text=ticket)
    log.info("url", url="http://user:t0psecret-pw@host/x", signed="https://h/b?X-Amz-Signature=0123abcdef&x=1")
    logging.getLogger("botocore").warning("canonical %s", SECRET)
    try:
        raise ValueError(f"bad {SECRET}")
    except ValueError:
        log.exception("failed")

    err = capsys.readouterr().err
    for secret in (SECRET, ticket, ticket.rsplit(".", 1)[1], "t0psecret", "0123abcdef"):
        assert secret not in err
    assert logs.MASK in err
    assert "ValueError" in err


def test_fields_that_only_sound_secret_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("s", "info", True)

    logs.get("forebay.x").info("x", admin_token_file="/run/token", ticket_ttl_s=3600, key="a/b.tfrecord")

    (line,) = lines(capsys)
    assert (line["admin_token_file"], line["ticket_ttl_s"], line["key"]) == ("/run/token", 3600, "a/b.tfrecord")


def test_remembered_secrets_are_bounded_and_the_newest_stay() -> None:
    for i in range(logs.HIDDEN_MAX + 10):
        logs.hide(f"secret-{i:06}")

    assert logs.redact(f"secret-{logs.HIDDEN_MAX + 9:06}") == logs.MASK
    assert logs.redact("secret-000000") == "secret-000000"
    assert len(logs._HIDDEN) == logs.HIDDEN_MAX


def test_texts_too_short_to_be_secrets_mask_nothing() -> None:
    logs.hide("")
    logs.hide("a")

    assert logs.redact("a banana") == "a banana"


def test_in_a_program_with_its_own_logging_lines_are_plain_text_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logs.hide(SECRET)
    with caplog.at_level(logging.INFO):
        logs.get("forebay.client").info("opened", path="/data/x", note=SECRET)

    assert caplog.messages == [f"opened path=/data/x note={logs.MASK}"]
