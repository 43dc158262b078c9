"""Environments of one service each: its wheel, forebay's, the pinned requirements, nothing of this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEMBERS = {
    "forebay": ROOT / "shared",
    "forebay-master": ROOT / "services" / "master",
    "forebay-worker": ROOT / "services" / "worker",
    "forebay-fuse": ROOT / "services" / "fuse",
}
COMMAND_TIMEOUT_S = 110


def clean_environment() -> dict[str, str]:
    """This process's environment without what would lead a child back to this checkout's packages."""
    hidden = ("PYTHON", "VIRTUAL_ENV", "FOREBAY_", "COVERAGE")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | {
        "UV_PYTHON_DOWNLOADS": "never"
    }


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean_environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def uv() -> str:
    """The checkout's own uv, else one on the path."""
    own = ROOT / ".tools" / "uv" / "bin" / "uv"
    found = str(own) if own.is_file() else shutil.which("uv")
    assert found, "no uv; run `make setup`"
    return found


@dataclass(frozen=True)
class Installed:
    """An environment that holds one service."""

    folder: Path

    @property
    def bin(self) -> Path:
        """Its commands."""
        return self.folder / "bin"

    def python(self, code: str) -> str:
        """Runs ``code`` there, away from the checkout."""
        return run(self.bin / "python", "-I", "-c", code, cwd=self.folder)


def build(root: Path, folder: Path) -> dict[str, Path]:
    """A wheel of each distribution of the tree at ``root``."""
    for name, source in MEMBERS.items():
        command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / name)
        run(*command, cwd=root / source.relative_to(ROOT))
    return {name: next((folder / name).glob("*.whl")) for name in MEMBERS}


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of each distribution, built from this checkout."""
    return build(ROOT, tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="session")
def install(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Installed]:
    """Makes the environment of one distribution; asked for again, the same one."""
    made: dict[str, Installed] = {}

    def make(name: str) -> Installed:
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "env"
            python, requirements = folder / "bin" / "python", ROOT / "requirements" / f"{name}.txt"
            run(uv(), "venv", "-q", "--python", sys.executable, folder, cwd=ROOT)
            run(uv(), "pip", "sync", "-q", "--python", python, "--require-hashes", requirements, cwd=folder)
            own = dict.fromkeys([wheels["forebay"], wheels[name]])
            run(uv(), "pip", "install", "-q", "--python", python, "--no-deps", *own, cwd=folder)
            made[name] = Installed(folder)
        return made[name]

    return make
