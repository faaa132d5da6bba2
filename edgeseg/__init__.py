"""edgeseg: frame in, masks out. Real-time instance segmentation for robots.

The public names are loaded on first use, so that ``import edgeseg`` costs nothing heavy.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# OpenCV reads its own limit once, when it is first imported: a second guard behind the header
# check of `edgeseg.cameras` (64 megapixels).
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(64_000_000))

_PUBLIC = {
    "EdgesegError": "edgeseg.errors",
    "Frame": "edgeseg.frame",
    "Instances": "edgeseg.instances",
    "ModelSpec": "edgeseg.bundle",
    "Pipeline": "edgeseg.pipeline",
    "Segmenter": "edgeseg.segmenter",
    "load": "edgeseg.segmenter",
    "open_camera": "edgeseg.cameras",
}
__all__ = [*sorted(_PUBLIC)]

if TYPE_CHECKING:
    from edgeseg.bundle import ModelSpec as ModelSpec
    from edgeseg.cameras import open_camera as open_camera
    from edgeseg.errors import EdgesegError as EdgesegError
    from edgeseg.frame import Frame as Frame
    from edgeseg.instances import Instances as Instances
    from edgeseg.pipeline import Pipeline as Pipeline
    from edgeseg.segmenter import Segmenter as Segmenter
    from edgeseg.segmenter import load as load


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgeseg' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
