"""Settings in a file: the environment's names and texts, and the line of what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from forebay.errors import ConfigError
from forebay.runtime import ServiceSettings, load
from forebay.runtime.config_file import FILE_MAX_BYTES, parse_config, read_config_file


class WorkerSettings(ServiceSettings):
    """Settings as a service writes them."""

    model_config = SettingsConfigDict(env_prefix="FOREBAY_WORKER_")

    tier_dirs: tuple[str, ...] = Field((), description="tiers")
    passive_cache: bool = Field(False, description="copies")
    umask: str = Field("000", description="octal")


def loaded(file: Path, *argv: str) -> WorkerSettings:
    return load(WorkerSettings, ["--config", str(file), *argv], prog="x", version="1", description="x")


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "forebay.yaml"
    file.write_text(text)
    return file


def test_a_file_says_what_the_environment_would(tmp_path: Path) -> None:
    text = "FOREBAY_REGISTRY: http://m:1\nFOREBAY_WORKER_TIER_DIRS:\n  - MEM:/a,b:1GiB\n  - SSD:/c:2GiB\n"
    settings = loaded(written(tmp_path, f"{text}FOREBAY_WORKER_PASSIVE_CACHE: yes\nFOREBAY_WORKER_UMASK: 022\n"))

    assert settings.registry == "http://m:1"
    assert settings.tier_dirs == ("MEM:/a,b:1GiB", "SSD:/c:2GiB")
    assert settings.passive_cache
    assert settings.umask == "022"


def test_flags_and_the_environment_beat_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "FOREBAY_REGISTRY: http://file:1\nFOREBAY_LOG_LEVEL: debug\nFOREBAY_WORKER_UMASK: 022\n")
    monkeypatch.setenv("FOREBAY_LOG_LEVEL", "error")

    settings = loaded(file, "--umask", "077")

    assert (settings.registry, settings.log_level, settings.umask) == ("http://file:1", "error", "077")


def test_the_service_s_own_name_beats_the_shared_one(tmp_path: Path) -> None:
    file = written(tmp_path, "FOREBAY_LOG_LEVEL: debug\nFOREBAY_WORKER_LOG_LEVEL: error\n")

    assert loaded(file).log_level == "error"


def test_the_variable_names_the_file_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOREBAY_CONFIG", str(written(tmp_path, "FOREBAY_LOG_LEVEL: debug")))

    assert load(WorkerSettings, [], prog="x", version="1", description="x").log_level == "debug"


def test_settings_of_other_services_and_empty_values_are_passed_over(tmp_path: Path) -> None:
    file = written(tmp_path, "FOREBAY_MASTER_MOUNT: [/=file:///x]\nFOREBAY_WORKER_UMASK:\nFOREBAY_LOG_LEVEL: ''\n")

    settings = loaded(file)

    assert (settings.umask, settings.log_level) == ("000", "info")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FOREBAY_LOG_LEVLE: debug", ("FOREBAY_LOG_LEVLE", "did you mean FOREBAY_LOG_LEVEL?")),
        ("FOREBAY_LOG_LEVEL: loud", ("FOREBAY_LOG_LEVEL", "loud")),
        ("FOREBAY_WORKER_UMASK: {a: b}", ("line 1", "one value, or a list")),
        ("# c\nLOG_LEVEL: debug", ("line 2", "begin with FOREBAY_")),
        ("FOREBAY_A: 1\nFOREBAY_A: 2", ("line 2", "twice")),
        ("FOREBAY_A: [1", ("line", "no YAML")),
        ("FOREBAY_A: \x01", ("no YAML",)),
        ("just words", ("FOREBAY_NAME: value",)),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(written(tmp_path, text))

    for word in words:
        assert word in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"#" * (FILE_MAX_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    for name, word in (("nowhere", "No such file"), ("large", "larger"), ("binary", "UTF-8"), ("", "directory")):
        with pytest.raises(ConfigError, match=word):
            read_config_file(tmp_path / name)


def test_an_empty_file_says_nothing() -> None:
    assert parse_config("", "x") == {}


def test_a_check_ends_without_starting_anything(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        loaded(written(tmp_path, "FOREBAY_LOG_LEVEL: debug"), "--check-config")

    assert caught.value.code == 0
