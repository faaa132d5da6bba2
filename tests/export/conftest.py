"""What the tests of export share: one tiny bundle, and a quiet torch."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from export_networks import write_tiny

logging.getLogger("torch.__trace").propagate = False  # thousands of lines for each failed test


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an untrained FastInst at 96x64, 12 queries."""
    return write_tiny(tmp_path_factory.mktemp("export") / "tiny")
