"""Records of measurements: JSON files that appear whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeseg import outputs


def check_target(path: Path) -> None:
    """Refuse a file that can't be written before hours of work, not after them.

    Raises:
        OutputError: see `edgeseg.outputs.OutputFile`.
    """
    outputs.check(path)


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report under a temporary name, then rename it; see `write_text`."""
    write_text(path, json.dumps(report, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text under a temporary name, then rename it.

    Raises:
        OutputError: it can't be written; nothing half-written stays.
    """
    file = outputs.OutputFile(path)
    try:
        file.part.write_text(text, "utf-8")
        file.keep()
    except OSError as error:
        raise outputs.failed(path, error) from None
    finally:
        file.discard()
