"""Which comparison belongs to the name of a recorded array."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pytest


def rule_for(name: str, rules: Mapping[str, Callable]) -> tuple[Callable, tuple[str, ...]]:
    """The rule whose pattern is the whole ``name``, and what the pattern caught."""
    for pattern, rule in rules.items():
        if caught := re.fullmatch(pattern, name):
            return rule, caught.groups()
    pytest.fail(f"no rule for the recorded array {name!r}")
