"""What tests need that run a program as a user without rights."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def open_up(folder: Path) -> None:
    """Lets every user reach a folder of a test: it, and what is above it in the temporary folder of all."""
    for each in (folder, *folder.parents):
        if each == Path(tempfile.gettempdir()):
            return
        os.chmod(each, 0o755)
    raise ValueError(f"{folder} is no temporary folder")
