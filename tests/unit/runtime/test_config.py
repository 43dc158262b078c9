"""Settings: where they come from, and what a user reads when one cannot work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from forebay.errors import ConfigError
from forebay.runtime import (
    MemberSettings,
    ServiceSettings,
    Size,
    check_exposure,
    is_loopback,
    load,
    logs,
    parse_size,
    read_admin_token,
    read_key_ring,
)
from forebay.runtime.config import split_list


class WorkerSettings(ServiceSettings):
    """Settings as a service writes them."""

    model_config = SettingsConfigDict(env_prefix="FOREBAY_WORKER_")

    tier_dirs: tuple[str, ...] = Field((), description="tiers")
    fill_streams: int = Field(4, ge=1, le=64, description="streams")
    memory: Size = Field(1 << 30, description="bytes")
    passive_cache: bool = Field(False, description="copies")
    nonce_file: Path | None = Field(None, description="nonce")


class ReadOnlySettings(ServiceSettings):
    """A service that has no changing endpoints."""

    model_config = SettingsConfigDict(env_prefix="FOREBAY_FUSE_")
    changing_endpoints: ClassVar[bool] = False


def loaded(*argv: str) -> WorkerSettings:
    return load(WorkerSettings, argv, prog="forebay-worker", version="1.2.3", description="A worker.")


def refused(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(*argv)
    return str(caught.value)


def test_without_anything_the_defaults_hold() -> None:
    settings = loaded()

    assert (settings.host, settings.port, settings.tier_dirs, settings.fill_streams) == ("127.0.0.1", 0, (), 4)


def test_flags_are_the_kebab_names_of_fields() -> None:
    settings = loaded(
        "--tier-dirs", "MEM:/a,b:1GiB", "--tier-dirs=SSD:/c", "--memory", "2GiB", "--passive-cache", "--no-log-json"
    )

    assert settings.tier_dirs == ("MEM:/a,b:1GiB", "SSD:/c")
    assert settings.memory == 2 << 30
    assert settings.passive_cache
    assert not settings.log_json


def test_variables_have_the_service_s_prefix_and_lists_have_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_WORKER_TIER_DIRS", "MEM:/a, SSD:/b,")
    monkeypatch.setenv("FOREBAY_WORKER_NONCE_FILE", "/n")
    monkeypatch.setenv("FOREBAY_WORKER_PASSIVE_CACHE", "yes")

    settings = loaded()

    assert settings.tier_dirs == ("MEM:/a", "SSD:/b")
    assert settings.nonce_file == Path("/n")
    assert settings.passive_cache


def test_a_flag_beats_a_variable_and_the_service_s_variable_the_shared_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_CLUSTER_ID", "shared")
    assert loaded().cluster_id == "shared"

    monkeypatch.setenv("FOREBAY_WORKER_CLUSTER_ID", "own")
    assert loaded().cluster_id == "own"

    assert loaded("--cluster-id", "flag").cluster_id == "flag"


def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_WORKER_PORT", "")

    assert loaded().port == 0


def test_a_list_variable_may_be_a_json_array() -> None:
    assert split_list('["a,b", "c"]') == ["a,b", "c"]
    with pytest.raises(ValueError, match="JSON"):
        split_list("[oops")
    with pytest.raises(ValueError, match="texts"):
        split_list("[1]")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prot", "1"], r"--prot: is no setting; did you mean --port\?"),
        (["--tier-dir=x"], r"--tier-dir: is no setting; did you mean --tier-dirs\?"),
        (["stray"], r"stray: is no setting"),
        (["--port"], r"--port: expected one argument"),
        (["--port", "x"], r"--port: 'x': input should be a valid integer.*"),
        (["--port", "70000"], r"--port: '70000': .*less than or equal to 65535"),
        (["--fill-streams", "0"], r"--fill-streams: '0': .*greater than or equal to 1"),
        (["--memory", "4XB"], r"--memory: '4XB': .*no size such as 4GiB.*"),
        (["--log-level", "loud"], r"--log-level: 'loud': want one of debug, info, warning, error"),
        (["--trace-ratio", "2"], r"--trace-ratio: '2': .*less than or equal to 1"),
        (["--passive-cache=yes"], r"--passive-cache: ignored explicit argument 'yes'"),
    ],
)
def test_a_bad_flag_is_named_as_it_was_written(argv: list[str], message: str) -> None:
    assert re.fullmatch(message, refused(*argv))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FOREBAY_WORKER_PROT", "1", r"FOREBAY_WORKER_PROT: is no setting; did you mean FOREBAY_WORKER_PORT\?"),
        ("FOREBAY_FILL_STREAMS", "1", r".*did you mean FOREBAY_WORKER_FILL_STREAMS\?"),
        ("FOREBAY_REGISTRI", "x", r".*did you mean FOREBAY_REGISTRY\?"),
        ("FOREBAY_WORKER_PORT", "x", r"FOREBAY_WORKER_PORT: 'x': input should be a valid integer.*"),
        ("FOREBAY_PORT", "70000", r"FOREBAY_PORT: '70000': .*"),
        ("FOREBAY_WORKER_TIER_DIRS", "[1", r"FOREBAY_WORKER_TIER_DIRS: '\[1': .*JSON.*"),
    ],
)
def test_a_bad_variable_is_named_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)

    assert re.fullmatch(message, refused())


@pytest.mark.parametrize("name", ["FOREBAY_MASTER_MOUNTS", "FOREBAY_TOOLS", "FOREBAY", "OTHER_PORT"])
def test_other_services_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")

    assert loaded().port == 0


def test_a_password_in_a_bad_value_is_not_repeated() -> None:
    message = refused("--port", "http://user:hunter2hunter2@host")

    assert "hunter2" not in message


@pytest.mark.parametrize(("flag", "text"), [("--version", "forebay-worker 1.2.3\n"), ("--help", "FOREBAY_WORKER_PORT")])
def test_help_and_version_print_and_end_well(capsys: pytest.CaptureFixture[str], flag: str, text: str) -> None:
    with pytest.raises(SystemExit) as caught:
        loaded(flag)

    assert caught.value.code == 0
    assert text in capsys.readouterr().out


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        loaded().port = 3


def test_shown_settings_are_plain_data() -> None:
    shown = loaded("--tier-dirs", "a", "--registry", "http://u:hunter2hunter2@h:1").shown()

    assert shown["tier_dirs"] == "a"
    assert shown["port"] == 0
    assert "hunter2" not in str(shown)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000", 1000), ("4GiB", 4 << 30), ("4g", 4 << 30), ("4GB", 4 * 10**9), ("1.5 KiB", 1536), ("7B", 7)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1 x", "1e3", "4 Gi B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_exposure(loaded("--host", host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "worker-1.example", ""])
def test_off_loopback_a_key_and_a_token_are_needed(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="cluster_key_file"):
        check_exposure(loaded("--host", host))
    with pytest.raises(ConfigError, match="admin_token_file"):
        check_exposure(loaded("--host", host, "--cluster-key-file", "/k"))
    check_exposure(loaded("--host", host, "--cluster-key-file", "/k", "--admin-token-file", "/t"))
    check_exposure(loaded("--host", host, "--insecure"))


def test_a_service_without_changing_endpoints_needs_no_token() -> None:
    settings = load(
        ReadOnlySettings, ["--host", "0.0.0.0", "--cluster-key-file", "/k"], prog="x", version="1", description="x"
    )

    check_exposure(settings)


def test_a_service_that_checks_no_tickets_may_listen_behind_mutual_tls() -> None:
    class Gateway(ReadOnlySettings):
        checks_tickets: ClassVar[bool] = False

    def checked(*argv: str) -> None:
        check_exposure(load(Gateway, ["--host", "0.0.0.0", *argv], prog="x", version="1", description="x"))

    with pytest.raises(ConfigError, match="cluster_key_file"):
        checked("--tls-cert", "/c", "--tls-key", "/k")
    checked("--tls-cert", "/c", "--tls-key", "/k", "--tls-ca", "/ca")


def test_half_of_a_tls_pair_is_refused() -> None:
    with pytest.raises(ConfigError, match="tls_key"):
        check_exposure(loaded("--tls-cert", "/c"))


def test_keys_come_from_the_file_and_are_hidden_from_logs(tmp_path: Path) -> None:
    secret = "ab" * 32
    (tmp_path / "keys").write_text(f"# ours\nk2 {secret}\nk1 {'cd' * 32}\n")

    ring = read_key_ring(loaded("--cluster-key-file", str(tmp_path / "keys")))

    assert [name for name, _ in ring.keys] == ["k2", "k1"]
    assert secret not in logs.redact(f"key {secret}")


def test_without_a_key_file_only_an_insecure_service_has_a_ring() -> None:
    with pytest.raises(ConfigError, match="cluster_key_file"):
        read_key_ring(loaded())

    assert read_key_ring(loaded("--insecure")) == read_key_ring(loaded("--insecure", "--port", "1"))
    assert read_key_ring(loaded("--insecure")) != read_key_ring(loaded("--insecure", "--cluster-id", "other"))


def test_a_key_file_that_cannot_be_used_is_named_and_never_quoted(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    flags = ["--cluster-key-file", str(path)]

    for content in (None, b"", b"k1 abcd\n", b"\xff\xfe", b"x" * 100_000, b"k1 " + b"zz" * 32):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match="cluster_key_file") as caught:
            read_key_ring(loaded(*flags))
        assert "zz" not in str(caught.value)
        assert "abcd" not in str(caught.value)


def test_the_admin_token_is_one_long_word(tmp_path: Path) -> None:
    path = tmp_path / "token"
    flags = ["--admin-token-file", str(path)]
    path.write_text("  0123456789abcdef\n")

    assert read_admin_token(loaded()) is None
    assert read_admin_token(loaded(*flags)) == "0123456789abcdef"
    for bad in ("short", "0123456789 abcdef", "0123456789abcdef\nx0123456789", "ü" * 20):
        path.write_text(bad)
        with pytest.raises(ConfigError, match="admin_token_file") as caught:
            read_admin_token(loaded(*flags))
        assert bad not in str(caught.value)


def test_a_member_without_a_name_gets_one_of_its_own() -> None:
    assert loaded("--member-id", "w1").member_name(7) == "w1"
    assert "-7071-" in loaded().member_name(7071)
    assert loaded().member_name(1) != loaded().member_name(1)


@pytest.mark.parametrize(
    ("setting", "bound", "wanted"),
    [
        (None, "127.0.0.1:7070", "127.0.0.1:7070"),
        (None, "[::1]:7070", "[::1]:7070"),
        (None, "0.0.0.0:7070", "me:7070"),
        (None, "[::]:7070", "me:7070"),
        ("master.example", "0.0.0.0:7070", "master.example:7070"),
        ("master.example:80", "0.0.0.0:7070", "master.example:80"),
        ("[2001:db8::1]", "0.0.0.0:7070", "[2001:db8::1]:7070"),
        ("[2001:db8::1]:80", "0.0.0.0:7070", "[2001:db8::1]:80"),
    ],
)
def test_the_map_gets_an_address_that_others_can_reach(setting: str | None, bound: str, wanted: str) -> None:
    argv = [] if setting is None else ["--advertise", setting]
    settings = load(MemberSettings, argv, prog="forebay-test", version="1", description="test")

    assert settings.advertised(bound, "me") == wanted
