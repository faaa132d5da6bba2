"""Records of measurements: JSON files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseg.errors import OutputError


def check_target(path: Path) -> None:
    """Refuse a file that can't be written before hours of work, not after them.

    Raises:
        OutputError: its folder is missing or can't be written, or it is a folder itself.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(
            f"got --json {str(path)!r}; wanted a file in a folder that can be written; "
            "make the folder or choose another"
        )


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report under a temporary name, then rename it.

    Raises:
        OutputError: it can't be written; nothing half-written stays.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            f"got {error.strerror} for {str(path)!r}; wanted to write it; "
            "choose a folder with permission and space"
        ) from None
