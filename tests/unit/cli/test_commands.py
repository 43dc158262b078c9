"""What commands decide before they ask anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from forebay.cli import jobs, output
from forebay.cli.checking import meant
from forebay.cli.door import errors, exit_code, sentence
from forebay.cli.folders import OwnedFolder
from forebay.cli.keeping import check_whole, parse_seconds
from forebay.cli.main import app
from forebay.cli.reading import check_target
from forebay.cli.settings import flat, patch_of
from forebay.cli.workers import check_drain, parse_weight
from forebay.contracts import Member, Mount
from forebay.errors import (
    ConfigError,
    Conflict,
    ForebayError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PeerUnavailable,
    Unauthenticated,
)

MOUNT = Mount(mount_id="m", generation=1, path="/data", ufs_uri="s3://b", ufs_id="0" * 32)


def worker(name: str, **changes: object) -> Member:
    return Member(member_id=name, role="worker", tcp="h:1", **changes)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("--mem", "no size"), 2, "--mem: no size"),
        (PeerUnavailable("nothing answers at http://m:1"), 3, "--registry"),
        (Unauthenticated("needs the token", reason="admin_token"), 1, "--admin-token-file"),
        (NotFound("no such file", path="/a/b"), 1, "/a/b"),
        (Overloaded("busy"), 1, "try again"),
    ],
)
def test_an_error_is_one_line_with_the_next_step_and_a_code(error: ForebayError, code: int, words: str) -> None:
    assert exit_code(error) == code
    assert words in sentence(error)
    assert "\n" not in sentence(error)


def test_what_is_raised_inside_the_door_ends_the_command_with_its_code() -> None:
    with pytest.raises(typer.Exit) as caught, errors():
        raise PeerUnavailable("gone")

    assert caught.value.exit_code == 3


def test_a_command_that_nobody_knows_is_answered_with_the_nearest() -> None:
    for words, near in ((["stauts"], "status"), (["workers", "drian"], "drain"), (["ls", "--jsn"], "--json")):
        ended = CliRunner().invoke(app, words)
        assert ended.exit_code == 2
        assert near in ended.output


def test_every_command_has_a_help_text() -> None:
    def words(command: typer.core.TyperGroup, path: list[str]) -> list[list[str]]:
        found = [path]
        for name, inner in command.commands.items():
            deeper = isinstance(inner, typer.core.TyperGroup)
            found += words(inner, [*path, name]) if isinstance(inner, typer.core.TyperGroup) else [[*path, name]]
            assert deeper or inner.help, [*path, name]
        return found

    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    for path in words(group, []):
        ended = CliRunner().invoke(app, [*path, "--help"])
        assert ended.exit_code == 0
        assert "Usage" in ended.output


def test_the_shell_completes_commands() -> None:
    environ = {**os.environ, "_FOREBAY_COMPLETE": "complete_bash", "COMP_WORDS": "forebay wor", "COMP_CWORD": "1"}
    command = [str(Path(sys.executable).with_name("forebay"))]

    assert b"workers" in subprocess.run(command, env=environ, capture_output=True, check=False, timeout=60).stdout


def test_the_last_worker_that_owns_blocks_is_not_drained_without_force() -> None:
    others = [worker("b", state="down"), worker("c", capacity_weight=0.0), worker("d", state="draining")]

    with pytest.raises(Conflict, match="--force"):
        check_drain("a", [worker("a"), *others], force=False)
    check_drain("a", [worker("a"), *others], force=True)
    check_drain("a", [worker("a"), worker("e")], force=False)


def test_a_weight_is_a_number_or_the_workers_own() -> None:
    assert (parse_weight("2.5"), parse_weight("own")) == (2.5, None)
    for text in ("much", "-1", "nan", "1e99"):
        with pytest.raises(ConfigError):
            parse_weight(text)


def test_times_have_units() -> None:
    assert [parse_seconds(t) for t in ("90", "90s", "15m", "2h", "7d")] == [90, 90, 900, 7200, 604800]
    for text in ("", "soon", "-1s", "1e99"):
        with pytest.raises(ConfigError):
            parse_seconds(text)


def test_rules_hold_for_whole_mounts() -> None:
    check_whole(MOUNT, "/data/")
    with pytest.raises(InvalidRequest, match="/data"):
        check_whole(MOUNT, "/data/sub")


def test_changes_become_a_merge_patch_with_json_values() -> None:
    known = {"policy": "hold", "tiers": {}, "passive_cache": False}

    patch = patch_of(["policy=lru", "passive_cache=true", "tiers.MEM.reserved_bytes=2GiB"], known)

    assert patch == {"policy": "lru", "passive_cache": True, "tiers": {"MEM": {"reserved_bytes": "2GiB"}}}
    with pytest.raises(ConfigError, match="did you mean policy"):
        patch_of(["polcy=lru"], known)
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        patch_of(["policy"], known)


def test_a_copy_replaces_plain_files_by_force_and_nothing_else_ever(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")

    check_target(tmp_path / "new", force=False)
    check_target(tmp_path / "file", force=True)
    with pytest.raises(ConfigError, match="--force"):
        check_target(tmp_path / "file", force=False)
    for name in ("link", "pipe"):
        with pytest.raises(ConfigError, match="no plain file"):
            check_target(tmp_path / name, force=True)


def test_nested_settings_are_shown_by_dotted_names() -> None:
    assert flat({"a": 1, "b": {"c": {"d": 2}}, "e": {}}) == {"a": 1, "b.c.d": 2, "e": {}}


def test_sizes_and_shares_are_for_people() -> None:
    assert [output.size(n) for n in (0, 1023, 1536, 5 << 30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
    assert (output.share(1, 3), output.share(1, 0)) == ("33 %", "-")


def test_a_bar_draws_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("copying", 10) as bar:
        bar.at(5)

    assert capsys.readouterr() == ("", "")


def test_a_file_is_checked_by_the_services_that_it_names() -> None:
    assert meant(["FOREBAY_WORKER_POLICY", "FOREBAY_REGISTRY"]) == ["forebay_worker"]
    assert meant(["FOREBAY_REGISTRY"]) == ["forebay_master", "forebay_worker"]


def test_a_command_that_a_signal_ended_has_the_code_that_shells_give() -> None:
    assert (jobs.shell_code(3), jobs.shell_code(-9)) == (3, 137)


def test_the_report_says_where_bytes_came_from() -> None:
    name = "forebay_worker_served_bytes_total"
    page = f'{name}{{source="mem"}} 3.145728e+06\n{name}{{source="ufs"}} 1048576.0\n'

    assert jobs.told(jobs.served([page]), {"ufs": "the source"}) == [
        "3.0 MiB (75 %) from mem",
        "1.0 MiB (25 %) from the source",
    ]
    assert "past them" in jobs.told({}, {})[0]


def test_only_clusters_whose_command_lives_are_running(tmp_path: Path) -> None:
    record = b'{"pid": 1, "mounts": ["/mnt"], "registry": "http://m:1", "ready": true}'
    living = OwnedFolder(tmp_path)
    (living.path / jobs.RECORD).write_bytes(record)
    dead = tmp_path / "forebay-dead"
    dead.mkdir()
    (dead / "owner.lock").touch()
    (dead / jobs.RECORD).write_bytes(record)

    assert [r.folder for r in jobs.running(tmp_path)] == [living.path]
    living.remove()
    assert list(jobs.running(tmp_path)) == []
