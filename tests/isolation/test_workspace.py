"""What the workspace's files promise about each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from .conftest import MEMBERS, ROOT, run

PINNED = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", re.MULTILINE)


def project(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return data


def third_party(dependencies: list[str]) -> set[str]:
    return {d for d in dependencies if not d.startswith("forebay")}


def pins(path: Path) -> dict[str, str]:
    return {name.lower(): version for name, version in PIN.findall(path.read_text())}


def test_the_all_in_one_depends_on_the_union_of_its_members() -> None:
    members = [project(folder) for folder in MEMBERS.values()]
    union = {d for p in members for d in third_party(p["dependencies"])}
    union |= {d for p in members for extra in p.get("optional-dependencies", {}).values() for d in extra}

    assert set(project(ROOT)["dependencies"]) == union


def test_all_distributions_have_one_version_and_need_it_of_each_other() -> None:
    version = project(ROOT)["version"]

    for name, folder in MEMBERS.items():
        own = project(folder)
        assert own["version"] == version, name
        for dependency in set(own["dependencies"]) - third_party(own["dependencies"]):
            assert dependency.endswith(f"=={version}"), dependency


def test_the_all_in_one_has_the_members_commands() -> None:
    scripts = {name: entry for folder in MEMBERS.values() for name, entry in project(folder)["scripts"].items()}

    assert project(ROOT)["scripts"] == scripts


@pytest.mark.parametrize("name", MEMBERS)
def test_pins_satisfy_what_the_projects_ask_for(name: str) -> None:
    pinned = pins(ROOT / "requirements" / f"{name}.txt")

    for text in third_party(project(MEMBERS[name])["dependencies"]):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), f"{text}; run `make lock`"


@pytest.mark.parametrize("path", PINNED, ids=lambda p: p.name)
def test_every_requirement_is_pinned_by_hash_and_names_no_address(path: Path) -> None:
    text = path.read_text()

    assert text.count("--hash=sha256:") >= len(pins(path)) > 0
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)


def test_services_pin_the_same_versions() -> None:
    seen: dict[str, str] = {}

    for path in PINNED:
        if path.stem not in ("demo", "tools", "uv"):
            for name, version in pins(path).items():
                assert seen.setdefault(name, version) == version, f"{name} in {path.name}"


def test_the_all_in_one_wheel_holds_the_four_packages(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)

    with ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        tops = {name.split("/")[0] for name in wheel.namelist()}
    packages = {"forebay", "forebay_fuse", "forebay_master", "forebay_worker"}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages


def test_no_committed_file_names_a_package_registry() -> None:
    hosts = "|".join([r"py[p]i\.org", r"python[h]osted", r"registry\.np[m]js", r"deb\.debia[n]"])
    found = subprocess.run(["git", "grep", "-nIE", hosts], cwd=ROOT, capture_output=True, text=True, check=False)

    assert found.stdout == ""
