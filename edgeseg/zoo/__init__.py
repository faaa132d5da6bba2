"""Torch networks: one idea per file. Used on the workstation, never on the robot.

A family is a row of `edgeseg.registry.MODELS`: a network class with its name in ``family``, its
settings' class in ``Config``, a default ``score_threshold``, and ``deployed(max_instances)``.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from edgeseg.errors import unknown
from edgeseg.registry import resolve, rows


def build(family: str, **settings: Any) -> nn.Module:
    """A network of ``family`` from the ``network`` settings of a bundle.

    Raises:
        InputError: the family is unknown.
        TypeError: a setting is unknown to the family.
    """
    known = rows("model")
    if family not in known:
        raise unknown("family", family, known)
    network = resolve("model", family)
    return network(network.Config.from_dict(settings))
