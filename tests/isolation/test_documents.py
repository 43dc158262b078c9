"""The documents name commands, flags, files and errors that exist."""

from __future__ import annotations

import errno
import re
import shlex
from typing import Any

import pytest
import typer

from forebay.cli.main import app
from forebay.errors import WIRE_ERRORS
from forebay.runtime import ServiceSettings
from forebay_fuse.errno_door import errno_of
from forebay_fuse.settings import FuseSettings
from forebay_master.settings import MasterSettings
from forebay_worker.settings import WorkerSettings

from .conftest import ROOT

README = (ROOT / "README.md").read_text()
SETTINGS: dict[str, type[ServiceSettings]] = {
    "forebay-master": MasterSettings,
    "forebay-worker": WorkerSettings,
    "forebay-fuse": FuseSettings,
}

CURL = {"cacert", "cert"}
"""Flags of curl that the text shows."""


def fields(text: str) -> set[str]:
    """The fields that the flags in ``text`` would set."""
    return {flag.replace("-", "_") for flag in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text)}


@pytest.mark.parametrize("service", SETTINGS)
def test_the_commands_of_a_service_have_flags_that_exist(service: str) -> None:
    (command,) = re.findall(rf"^{service} (?:.*\\\n)*.*$", README, re.MULTILINE)

    assert fields(command)
    assert fields(command) <= set(SETTINGS[service].model_fields)


def forebay_lines() -> list[list[str]]:
    """The ``forebay …`` commands of the README as words, without what a command that they start is told."""
    lines = re.findall(r"^forebay (?!-worker|-master|-fuse)(.*)$", README, re.MULTILINE)
    return [shlex.split(line.partition(" -- ")[0], comments=True) for line in lines]


@pytest.mark.parametrize("words", forebay_lines(), ids=" ".join)
def test_each_line_of_the_command_is_one_that_it_takes(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while words and isinstance(command, typer.core.TyperGroup):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]

    command.make_context(command.name, list(words))


def test_flags_in_the_text_about_services_exist_in_one_of_them() -> None:
    section = README[README.index("## Run the services") : README.index("## Run it with Docker")]
    known = {name for kind in SETTINGS.values() for name in kind.model_fields} | {"help", "version"} | CURL

    assert fields(section) <= known


def test_every_errno_of_a_cluster_s_error_stands_in_the_semantics() -> None:
    semantics = (ROOT / "SEMANTICS.md").read_text()

    for kind in WIRE_ERRORS.values():
        assert f"| `{errno.errorcode[errno_of(kind('x'))]}` |" in semantics, kind


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "SEMANTICS.md", "GLOSSARY.md", "DESIGN.md"])
def test_links_between_documents_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text()):
        assert (ROOT / target).is_file(), target


def test_targets_that_the_documents_name_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    for document in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"make ([a-z-]+)\b", (ROOT / document).read_text()))
        assert named <= targets, document
