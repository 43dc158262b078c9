"""Private folders: removed by their owner, or by the next command when the owner was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from forebay.cli.folders import OwnedFolder, sweep

CHILD = "import sys, os; from forebay.cli.folders import OwnedFolder; from pathlib import Path; \
f = OwnedFolder(Path(sys.argv[1])); (f.path / 'block').write_bytes(b'x'); print(f.path, flush=True); os._exit(9)"


def test_a_folder_is_private_and_goes_with_its_owner(tmp_path: Path) -> None:
    owned = OwnedFolder(tmp_path)
    assert owned.path.stat().st_mode & 0o777 == 0o700
    (owned.path / "file").touch()
    owned.remove()
    owned.remove()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_the_living_and_of_others_are_left_alone(tmp_path: Path) -> None:
    owned = OwnedFolder(tmp_path)
    (tmp_path / "forebay-of-somebody").mkdir()
    assert sweep(tmp_path) == []
    assert owned.path.exists()
    owned.remove()


def test_the_folder_of_a_killed_command_is_swept(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-c", CHILD, tmp_path], stdout=subprocess.PIPE, check=False, timeout=30)
    left = Path(said.stdout.decode().strip())
    assert (left / "block").exists()
    assert sweep(tmp_path) == [left]
    assert not left.exists()
