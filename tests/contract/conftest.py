"""What the contract suites share."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_networks import write_tiny


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that every engine can load: an untrained FastInst at 96x64, 12 queries."""
    return write_tiny(tmp_path_factory.mktemp("bundles") / "tiny")
