"""Cameras: iterators of leased frames. `open_camera` finds the right one."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from edgeseg.cameras.base import Camera
from edgeseg.errors import CameraError, InputError
from edgeseg.registry import resolve, rows

__all__ = ["Camera", "open_camera"]


def open_camera(spec: str | Path | int, **settings: Any) -> Camera:
    """Open a source of frames.

    Args:
        spec: the path of a video, a picture, a folder of pictures or a ROS bag (``.mcap``,
            ``.db3`` or folder); or ``NAME:ADDRESS`` with the name of a camera, e.g.
            ``synthetic:640x480@30?seconds=5``.
        settings: of that camera, by name, e.g. ``live=True``, ``topic="/camera/image_raw"``.

    Raises:
        CameraError: the source can't be opened.
        InputError: no camera of that name, or a setting that it doesn't have.

    >>> with open_camera("synthetic:320x240@30?seconds=1", live=False) as camera:
    ...     for frame in camera:
    ...         with frame:
    ...             pass
    >>> frame
    Frame(320x240 bgr8, sequence=29, stamp_ns=..., frame_id='camera')
    """
    if _is_number(spec):
        raise CameraError(
            f"got camera number {spec}; wanted a video, a picture, a folder, a bag or 'synthetic'; "
            "this release reads no live cameras: record a file first"
        )
    name, address = _split(spec) if isinstance(spec, str) else ("files", str(spec))
    try:
        camera: Camera = resolve("camera", name).open(address, **settings)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        wrong = re.sub(r".*unexpected keyword argument '(\w+)'.*", r"\1", str(error))
        raise InputError(
            f"got setting {wrong!r} for camera {name!r}; wanted one that it has; "
            "see help(open_camera)"
        ) from None
    return camera


def _is_number(spec: str | Path | int) -> bool:
    """Whether ``spec`` numbers a camera, as 0 or as text that names no file."""
    text = str(spec)
    return isinstance(spec, int) or (text.isdecimal() and not _is_there(text))


def _split(spec: str) -> tuple[str, str]:
    """Name and address of the camera that ``spec`` means; an existing path always wins."""
    named = re.fullmatch(r"([A-Za-z][\w+-]+)(?::(.*))?", spec, re.DOTALL)
    if named is None or _is_there(spec):
        return "files", spec
    name, address = named.groups()
    if address is None and not get_close_matches(name, rows("camera")):
        return "files", spec  # a mistyped file rather than a mistyped camera
    return name, address or ""


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # e.g. longer than a file name can be
        return False
