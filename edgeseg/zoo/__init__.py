"""Torch networks: one paper per file. Used on the workstation, never on the robot."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgeseg.errors import unknown


def build(family: str, **settings: Any) -> nn.Module:
    """A network of ``family`` from the ``network`` settings of a bundle.

    Raises:
        InputError: the family is unknown.
        TypeError: a setting is unknown to the family.
    """
    if family != "fastinst":
        raise unknown("family", family, ["fastinst"])
    from edgeseg.zoo.fastinst import FastInst, FastInstConfig

    return FastInst(FastInstConfig.from_dict(settings))
