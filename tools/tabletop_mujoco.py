# SPDX-License-Identifier: Apache-2.0
"""MuJoCo, told before its first import to render without a screen.

Set MUJOCO_GL to "egl" to render on a GPU; the pictures then differ in a few grey values.
"""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "osmesa")
# One thread per worker: Mesa's own threads would compete with the other workers.
os.environ.setdefault("LP_NUM_THREADS", "0")

import mujoco

__all__ = ["mujoco"]
