"""The examples of SEMANTICS.md, run word for word by a shell on a real mount."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuse.conftest import file_cluster

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
DOCUMENT = Path(__file__).parents[2] / "SEMANTICS.md"
ANYTHING = "…"
TIMEOUT_S = 90
MARK = "\x01"


@dataclass(frozen=True)
class Example:
    """A command, and the lines that it prints; ``…`` in them is anything."""

    command: str
    output: str

    def matches(self, found: str) -> bool:
        """Whether that was printed."""
        wanted = ".*".join(re.escape(part) for part in self.output.split(ANYTHING))
        return re.fullmatch(wanted, found) is not None


def examples(text: str) -> list[Example]:
    """Commands of all console blocks, in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append(Example(command, output))
    return found


def script(wanted: list[Example]) -> str:
    """One shell for all, so that what is open stays open; a mark before each command's output."""
    return "exec 2>&1\n" + "".join(f"printf '{MARK}'\n{example.command}\n" for example in wanted)


def test_examples_are_found_and_compared_as_they_are_written() -> None:
    found = examples("text\n```console\n$ echo a\na\n$ cat x\ncat: …: No\n```\nmore\n```console\n$ true\n```\n")
    assert found == [Example("echo a", "a\n"), Example("cat x", "cat: …: No\n"), Example("true", "")]
    assert found[1].matches("cat: /some/x: No\n")
    assert not found[1].matches("cat: /some/x: Yes\n")
    assert not found[2].matches("a\n")


def test_every_example_of_the_semantics_holds(tmp_path: Path) -> None:
    # given
    source, mount = tmp_path / "source", tmp_path / "mount"
    source.mkdir()
    mount.mkdir()
    wanted = examples(DOCUMENT.read_text())
    assert len(wanted) > 20
    env = {**os.environ, "SOURCE": str(source), "MOUNT": str(mount), "LC_ALL": "C.UTF-8"}
    # when a shell does what the document says
    with file_cluster(source, mount, "--negative-timeout", "0.2"):
        done = subprocess.run(
            ["bash", "-c", script(wanted)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=env
        )
    # then it prints what the document says
    printed = done.stdout.split(MARK)[1:]
    assert len(printed) == len(wanted), done.stdout
    wrong = [(e.command, e.output, found) for e, found in zip(wanted, printed, strict=True) if not e.matches(found)]
    assert not wrong
