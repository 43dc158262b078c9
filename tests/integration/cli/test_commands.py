"""The commands against a cluster that runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from forebay.cli.main import app
from forebay.testing.cluster import Cluster, eventually

pytestmark = [pytest.mark.slow]

MIB = 1 << 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (folder / "train" / "deep").mkdir(parents=True)
    for number in range(4):
        (folder / "train" / f"{number}.bin").write_bytes(os.urandom(MIB))
    (folder / "train" / "deep" / "last").write_bytes(os.urandom(100_000))
    (folder / "empty").touch()
    return folder


@pytest.fixture(scope="module")
def extra(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that may be mounted, and is not."""
    folder = tmp_path_factory.mktemp("extra")
    (folder / "file").write_bytes(os.urandom(MIB))
    (folder / "hello").write_text("grüezi")
    return folder


@pytest.fixture(scope="module")
def cluster(source: Path, extra: Path) -> Iterator[Cluster]:
    spec = Cluster.spec(f"file://{source}", workers=2)
    with Cluster(replace(spec, ufs_roots=(*spec.ufs_roots, f"file://{extra}"))) as running:
        yield running


class Forebay:
    """The command, told where the cluster is."""

    def __init__(self, cluster: Cluster) -> None:
        self._environ = {"FOREBAY_REGISTRY": cluster.registry}

    def __call__(self, *words: str | Path, code: int = 0) -> Result:
        ended = CliRunner().invoke(app, [str(w) for w in words], env=self._environ)
        assert ended.exit_code == code, (words, ended.output, ended.exception)
        return ended

    def json(self, *words: str) -> Any:
        return orjson.loads(self(*words, "--json").stdout)


@pytest.fixture
def forebay(cluster: Cluster) -> Forebay:
    return Forebay(cluster)


def test_names_and_bytes_are_those_of_the_source(forebay: Forebay, source: Path, tmp_path: Path) -> None:
    assert [e["name"] for e in forebay.json("ls", "/train")] == ["0.bin", "1.bin", "2.bin", "3.bin", "deep"]
    assert forebay.json("stat", "/train/0.bin")["size"] == MIB
    assert forebay("cat", "/train/0.bin").stdout_bytes == (source / "train/0.bin").read_bytes()
    assert forebay.json("du", "/")["bytes"] == 4 * MIB + 100_000

    forebay("cp", "-r", "/train", tmp_path)

    for file in (source / "train").rglob("*.bin"):
        assert (tmp_path / file.relative_to(source)).read_bytes() == file.read_bytes()
    assert "--force" in forebay("cp", "-r", "/train", tmp_path, code=2).output
    assert "-r" in forebay("cp", "/train", tmp_path, code=1).output


def test_a_path_that_is_not_there_is_one_sentence(forebay: Forebay) -> None:
    for words in (("ls", "/nowhere"), ("cat", "/nowhere"), ("stat", "/nowhere"), ("free", "/nowhere")):
        ended = forebay(*words, code=1)
        assert ended.stderr.startswith("error: ")
        assert "/nowhere" in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_a_cluster_that_does_not_answer_is_told_with_where_it_was_looked_for() -> None:
    ended = CliRunner().invoke(app, ["ls", "/"], env={"FOREBAY_REGISTRY": "http://127.0.0.1:1"})

    assert ended.exit_code == 3
    assert "http://127.0.0.1:1" in ended.stderr
    assert "--registry" in ended.stderr


def test_the_workers_are_shown_and_drained_but_not_the_last(forebay: Forebay) -> None:
    def states() -> dict[str, str]:
        return {w["member_id"]: w["state"] for w in forebay.json("workers", "list")}

    assert states() == {"worker-0": "live", "worker-1": "live"}

    forebay("workers", "drain", "worker-0")
    eventually(lambda: states()["worker-0"] == "draining", what="the drain in the map")
    refused = forebay("workers", "drain", "worker-1", code=1)
    forebay("workers", "undrain", "worker-0")

    assert "--force" in refused.output
    eventually(lambda: set(states().values()) == {"live"}, what="both workers live")
    assert "did you mean worker-" in forebay("workers", "drain", "wroker-1", code=1).output


def test_a_weight_changes_the_map_until_it_is_taken_back(forebay: Forebay) -> None:
    def weight() -> float:
        found: float = forebay.json("workers", "list")[0]["capacity_weight"]
        return found

    before = weight()
    forebay("workers", "weight", "worker-0", "7")
    eventually(lambda: weight() == 7, what="the weight in the map")
    forebay("workers", "weight", "worker-0", "own")
    eventually(lambda: weight() == before, what="the worker's own weight")


def test_settings_change_on_all_workers_or_are_refused_with_the_nearest_name(forebay: Forebay) -> None:
    forebay("settings", "set", "policy=lru", "reserved_bytes=1MiB")

    assert {s["policy"] for s in forebay.json("settings", "show").values()} == {"lru"}
    assert "lru" in forebay("settings", "show").output
    assert "did you mean policy" in forebay("settings", "set", "polcy=lru", code=2).output
    assert "one of" in forebay("settings", "set", "policy=best", code=1).output
    forebay("settings", "set", "policy=hold", "reserved_bytes=0")


def test_a_pin_keeps_a_mount_from_being_freed_until_it_is_unpinned(forebay: Forebay, cluster: Cluster) -> None:
    for number in range(4):
        forebay("cat", f"/train/{number}.bin")

    forebay("pin", "/")
    pinned = forebay.json("free", "/")
    forebay("unpin", "/")
    freed = forebay.json("free", "/train")

    assert pinned["freed_blocks"] == 0
    assert pinned["pinned_blocks"] >= 4
    assert freed["freed_blocks"] >= 4
    assert "whole mounts" in forebay("pin", "/train", code=1).output


def test_a_time_to_live_empties_the_cache(forebay: Forebay) -> None:
    def used() -> int:
        return sum(w["used_bytes"] for w in forebay.json("workers", "list"))

    forebay("free", "/")
    forebay("cat", "/train/0.bin")
    assert used() >= MIB

    forebay("ttl", "/", "1s")

    eventually(lambda: used() == 0, what="the block gone", timeout_s=30)
    forebay("ttl", "/", "own")
    assert "more than 0" in forebay("ttl", "/", "0s", code=2).output


def test_the_status_shows_members_and_mounts(forebay: Forebay, source: Path) -> None:
    found = forebay.json("status")

    assert [w["member_id"] for w in found["workers"]] == ["worker-0", "worker-1"]
    assert [m["path"] for m in found["mounts"]] == ["/"]
    assert str(source) in forebay("status").output


def test_a_bench_says_that_the_second_pass_came_from_memory(forebay: Forebay) -> None:
    forebay("free", "/")

    first, second = forebay.json("bench", "/train")

    assert (first["files"], first["bytes"]) == (5, 4 * MIB + 100_000)
    assert set(first["sources"]) >= {"ufs"}
    assert set(second["sources"]) == {"mem"}


def test_a_file_is_checked_by_the_services_themselves(forebay: Forebay, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("FOREBAY_WORKER_POLICY: lru\nFOREBAY_REGISTRY: http://m:1\n")
    bad.write_text("FOREBAY_WORKER_POLICY: best\n")

    assert "good" in forebay("config", "check", good).output
    assert "FOREBAY_WORKER_POLICY" in forebay("config", "check", bad, code=2).output


def test_a_file_tells_commands_where_the_cluster_is(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "forebay.yaml"
    file.write_text(f"FOREBAY_REGISTRY: {cluster.registry}\n")

    assert CliRunner().invoke(app, ["--config", str(file), "ls", "/"]).exit_code == 0
    file.write_text("FOREBAY_REGISTYR: x\n")
    refused = CliRunner().invoke(app, ["--config", str(file), "ls", "/"])
    assert refused.exit_code == 2
    assert "did you mean FOREBAY_REGISTRY" in refused.output


def test_a_load_is_told_in_words_and_its_exit_code_is_the_truth(forebay: Forebay) -> None:
    forebay("free", "/")

    dry = forebay("load", "/train", "--dry-run")
    done = forebay.json("load", "/train", "--verify")
    name = done["load_id"]

    assert "all of it fits" in dry.stdout
    assert (done["state"], done["missing_blocks"], done["plan"]["files"]) == ("succeeded", 0, 5)
    assert "succeeded: all 5 blocks are held" in forebay("loads", "show", name).stdout
    assert forebay.json("loads", "list")[0]["load_id"] == name
    assert forebay.json("loads", "follow", name)["state"] == "succeeded"
    assert "is over" in forebay("loads", "cancel", name, code=1).stderr
    assert "/nowhere" in forebay("load", "/nowhere", code=1).stderr
    second = forebay.json("bench", "/train", "--passes", "1")
    assert set(second[0]["sources"]) == {"mem"}


def test_the_mount_table_is_shown_and_what_cannot_be_changed_is_said(
    forebay: Forebay, source: Path, tmp_path: Path
) -> None:
    (mount,) = forebay.json("mounts", "ls")
    assert (mount["path"], mount["ufs_uri"]) == ("/", f"file://{source}")
    refused = forebay("mounts", "add", "/other", f"file://{tmp_path}", code=1)
    assert "ufs_roots" in refused.output
    deep = f"file://{source}/train/deep"
    assert "into itself" in forebay("mounts", "add", "/inner", deep, code=1).output
    assert "settings" in forebay("mounts", "set", "/", "--max-age", "always", code=1).output
    assert "settings" in forebay("mounts", "rm", "/", code=1).output
    assert "nothing is mounted" in forebay("mounts", "rm", "/none", code=1).output
    forebay("mounts", "set", "/", code=2)
    assert forebay.json("mounts", "ls") == [mount]


def test_a_pin_of_a_mount_that_was_added_is_the_mounts_own_and_workers_obey_it(forebay: Forebay, extra: Path) -> None:
    def rules() -> tuple[bool, float | None]:
        (found,) = [m for m in forebay.json("mounts", "ls") if m["path"] == "/extra"]
        return found["pin"], found["ttl_s"]

    def is_kept() -> bool:
        forebay("cat", "/extra/file")
        found = forebay.json("free", "/extra")
        return bool(found["freed_blocks"] == 0 and found["pinned_blocks"] == 1)

    forebay("mounts", "add", "/extra", f"file://{extra}")
    try:
        assert "for good" in forebay("pin", "/extra").output
        forebay("ttl", "/extra", "2h")
        assert rules() == (True, 7200)
        eventually(is_kept, what="the workers to hear of the pin", timeout_s=30)
        forebay("unpin", "/extra")
        forebay("ttl", "/extra", "own")
        assert rules() == (False, None)
    finally:
        forebay("free", "/extra", "--force")
        forebay("mounts", "rm", "/extra")


def test_a_mount_is_added_changed_and_taken_away(forebay: Forebay, extra: Path) -> None:
    def there(path: str) -> list[Any]:
        return [mount for mount in forebay.json("mounts", "ls") if mount["path"] == path]

    forebay("mounts", "add", "/more", f"file://{extra}", "--max-age", "7", "--replicas", "2", "--rule", "live=always")
    try:
        (mount,) = there("/more")
        assert (mount["ufs_uri"], mount["max_age_s"], mount["replicas"]) == (f"file://{extra}", 7.0, 2)
        assert mount["rules"] == [{"prefix": "live", "max_age_s": 0.0}]
        assert forebay("cat", "/more/hello").stdout == "grüezi"

        forebay("mounts", "set", "/more", "--max-age", "immutable", "--quota", "1GiB", "--pin")
        (changed,) = there("/more")
        assert (changed["max_age_s"], changed["quota_bytes"], changed["pin"]) == (None, 1 << 30, True)
        assert (changed["mount_id"], changed["replicas"]) == (mount["mount_id"], 2)
        assert changed["generation"] > mount["generation"]
    finally:
        forebay("mounts", "rm", "/more")
    assert there("/more") == []
    assert "/more/hello" in forebay("cat", "/more/hello", code=1).stderr
